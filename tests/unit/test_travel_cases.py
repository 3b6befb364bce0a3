"""The table of travel texts that the editor's timeline is held to: it reads in them what is sampled.

Write it anew with MOTIONGRAFT_UPDATE_RECORD=1; `tests/web/travel_keys.test.mjs` reads it.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from motiongraft.core.errors import SettingsError
from motiongraft.sampling.prompt_travel import parse_travel

TABLE = Path(__file__).resolve().parents[1] / "data" / "travel_cases.json"
TEXTS = (
    "0: a cat",
    "0: a cat\n12: a dog\n24: a bird",
    "24: last first\n\n0: then the first",
    "8-12: held\n-1: the last\n0: the first",
    "-4--1: the end\n0: (weights:1.2), and: colons",
    "# a comment\n0: a cat  # behind it\n  # another\n5: #1 in the charts",
    "0 : spaces\n 7 - 9 :  more of them  ",
    "3\uff1aa full-width colon\r\n9: another line end",
    "0:\n5: an empty prompt before",
    "",
    "# nothing else",
    "no frame",
    '"0": "a cat",',
    "0: a cat\n32: outside",
    "0: a cat\n-33: outside",
    "9-3: backwards",
    "0: a cat\n0: again",
    "0-8: a cat\n4: inside",
    "1234567890: too long a number",
)
FRAMES = 32


def case(text: str) -> dict[str, Any]:
    try:
        keys = parse_travel(text, FRAMES).keys
    except SettingsError as error:
        line = re.match(r"line (\d+)", str(error))
        return {"text": text, "keys": None, "line": int(line[1]) if line else 1}
    return {"text": text, "keys": [[key.first, key.last, key.prompt, key.line] for key in keys], "line": None}


def test_the_table_lists_what_is_sampled() -> None:
    found = {"frames": FRAMES, "cases": [case(text) for text in TEXTS]}
    if os.environ.get("MOTIONGRAFT_UPDATE_RECORD"):
        TABLE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    assert json.loads(TABLE.read_text(encoding="utf-8")) == found
