"""Many runs by one command, a grid or a search among settings; each trial is an ordinary run folder."""
