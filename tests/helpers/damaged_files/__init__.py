"""Small motion files of every program, and what can be wrong with them: names, types, headers, pickles, bytes."""
