from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from services.errors import ConfigurationError
from services.speech.engines.cosyvoice.text import Lexicon, lexicon_in

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "spelt"),
    [
        ("SQL, sql and Sql.", "sequel, sequel and sequel."),
        ("MySQL and SQLite", "MySQL and SQLite"),
        ("SQL Server", "the server"),
        ("我在SQL里", "我在sequel里"),
        ("银行行长来了", "银行航长来了"),
        ("C++ or c", "see plus plus or c"),
        ("nothing", "nothing"),
    ],
)
def test_whole_words_are_spelt_otherwise_and_the_longest_wins(text: str, spelt: str) -> None:
    lexicon = Lexicon(
        {"SQL": "sequel", "SQL Server": "the server", "行长": "航长", "C++": "see plus plus"}
    )
    assert lexicon.spelt(text) == spelt


def test_a_lexicon_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    path.write_text('{"行长": "[h][áng]长"}', encoding="utf-8")
    assert lexicon_in(path).spelt("行长") == "[h][áng]长"


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{" ": "b"}', '"a"'])
def test_a_file_that_is_none_is_told(tmp_path: Path, content: str) -> None:
    path = tmp_path / "words.json"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=r"words\.json"):
        lexicon_in(path)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"words\.json"):
        lexicon_in(tmp_path / "words.json")
