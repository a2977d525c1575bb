"""`python -m rewardsmith` is the command line."""

from .cli import main

main()
