"""What several test folders share: references to compare with, and random weights."""
