"""What each comparison of a run did to its reward: the command `influence`."""
