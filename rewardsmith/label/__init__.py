"""The page where people compare clips: a small web server over the store of preferences."""

from .app import create_app as create_app
from .serve import serve as serve
from .settings import Settings as Settings
