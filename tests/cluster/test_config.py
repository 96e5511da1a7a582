from dataclasses import asdict, dataclass, field
from typing import ClassVar

import pytest

from cluster.config import STRICT, ConfigError, dump, load, parse


@dataclass(frozen=True)
class Part:
    __pydantic_config__: ClassVar = STRICT
    name: str
    size: int = 3


@dataclass(frozen=True)
class Section:
    __pydantic_config__: ClassVar = STRICT
    rate: float = 0.5
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Whole:
    __pydantic_config__: ClassVar = STRICT
    title: str = "t"
    section: Section = field(default_factory=Section)


def write(tmp_path, text):
    path = tmp_path / "c.toml"
    path.write_text(text)
    return str(path)


def test_what_is_left_out_gets_its_default(tmp_path):
    assert load(write(tmp_path, ""), Whole) == Whole()
    assert load(write(tmp_path, "[section]\nrate = 1\n"), Whole) == Whole(section=Section(rate=1.0))


def test_a_dump_with_every_default_is_read_back(tmp_path):
    config = Whole("x", Section(0.1, (Part("a"), Part("b", 4))))
    text = dump(config)
    assert "size = 3" in text
    assert load(write(tmp_path, text), Whole) == config
    assert parse(asdict(config), Whole, "here") == config


@pytest.mark.parametrize(
    ("override", "whole"),
    [
        ("section.rate=0.25", Whole(section=Section(0.25))),
        ("title=word", Whole("word")),
        ('title="two words"', Whole("two words")),
        ('section.parts=[{name="a"}]', Whole(section=Section(parts=(Part("a"),)))),
    ],
)
def test_overrides_are_toml_values_or_bare_words(tmp_path, override, whole):
    assert load(write(tmp_path, ""), Whole, [override]) == whole


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[section]\nrat = 1", "section: no setting 'rat'; here you may set rate, parts"),
        ("titel = 1", "no setting 'titel'; here you may set title, section"),
        ("[[section.parts]]\nsize = 1", "section.parts.0: name is missing; here you may set name, size"),
        ("[[section.parts]]\nname = 'a'\nsise = 1", "section.parts.0: no setting 'sise'; here you may set name, size"),
        ("[section]\nrate = 'fast'", "section: rate is 'fast'; input should be a valid number"),
        ("section = 1", "section is 1; "),
        ("[section]\nrate = true", "section.rate is true; expected a number"),
        ("[[section.parts]]\nname = 'a'\nsize = false", "section.parts.0.size is false; expected a number"),
        ("[section", "is not TOML"),
    ],
)
def test_a_mistake_is_one_line_that_says_where_and_what_may_stand_there(tmp_path, text, says):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path, Whole)
    assert str(caught.value).startswith(f"{path}: {says}")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_bad_override_get_one_line(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load(str(tmp_path / "none.toml"), Whole)
    for bad in ("rate", "=1"):
        with pytest.raises(ConfigError, match=r"expected section\.key=value"):
            load(write(tmp_path, ""), Whole, [bad])
    with pytest.raises(ConfigError, match="title is a setting, not a section"):
        load(write(tmp_path, "title = 'x'"), Whole, ["title.x=1"])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("section.rate=" + "[" * 5000, "rate is '.*"),
        ("section.rate=" + "9" * 5000, "rate is "),
        ("section.rate=2001-99-99", "rate is '2001-99-99'"),
        ("section.rate=1\ntitle='x'", r"rate is \"1\\ntitle='x'\""),
        ("section." * 3000 + "rate=1", "no setting is in 3000 sections"),
    ],
)
def test_a_value_of_an_override_that_toml_cannot_have_gets_one_line(tmp_path, override, says):
    with pytest.raises(ConfigError, match=says):
        load(write(tmp_path, ""), Whole, [override])
