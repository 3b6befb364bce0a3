"""A world small enough to learn in minutes on two CPU cores, in which every truth is known in closed form."""
