"""The folder of a run: what it is, how far it came, and its result, whole whatever happens to the machine."""
