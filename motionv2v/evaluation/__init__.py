"""What a model, a tracker or a generator is worth: the protocols, and the rows and tables of launch/evaluate.py."""
