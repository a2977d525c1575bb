"""What is looked at once a run is done: is its reward any good?"""
