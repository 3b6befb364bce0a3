"""Floor 2: training for any host.

`data/` finds and cuts clips, `cache/` keeps them encoded, `runs/` keeps what a run has reached; the loop and what it
computes with lie here.
"""
