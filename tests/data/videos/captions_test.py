"""Captions: in every encoding that people save them in, for files under other spellings, and none lost in silence."""

import codecs
import unicodedata

import numpy as np
import pytest

from motionv2v.data.videos import captions, files, generator_prompts

OWL = "une chouette grisée … “là”"  # of what Latin-1 lacks: dots and quotation marks
NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def folder_of(tmp_path, *names, **files):
    """Write videos and, under the names of keywords with _ for ., caption files given as bytes or text."""
    for index, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes([index]) * 100)
    for name, content in files.items():
        content = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name.replace("_", ".")).write_bytes(content)
    return tmp_path


def found(folder):
    """Return {name: (caption, notes)} and the unused captions of a folder."""
    result = files.find(folder)
    return {video.name: (video.caption, video.notes) for video in result.videos}, result.unused


@pytest.mark.parametrize("data, encoding", [
    (OWL.encode(), "utf-8"),
    (codecs.BOM_UTF8 + OWL.encode(), "utf-8"),
    (codecs.BOM_UTF16_LE + OWL.encode("utf-16-le"), "utf-16-le"),
    (codecs.BOM_UTF16_BE + OWL.encode("utf-16-be"), "utf-16-be"),
    (codecs.BOM_UTF32_LE + OWL.encode("utf-32-le"), "utf-32-le"),
    (OWL.encode("utf-16-le"), "utf-16-le"),
    (OWL.encode("utf-16-be"), "utf-16-be"),
    (OWL.encode("cp1252"), "cp1252"),
])  # fmt: skip
def test_every_encoding_is_read_and_told(tmp_path, data, encoding):
    folder = folder_of(tmp_path, "owl.mp4", "fox.mp4", owl_txt=data)
    given, unused = found(folder)
    notes = () if encoding == "utf-8" else (f"caption of owl.txt read as {encoding}",)
    assert given["owl.mp4"] == (OWL, notes) and not unused
    assert captions.decode(data) == (OWL, encoding)


@pytest.mark.parametrize("encoding, mark", [("utf-16-le", codecs.BOM_UTF16_LE), ("cp1252", b""), ("utf-8-sig", b"")])
@pytest.mark.parametrize("file, form", [("captions_csv", "owl.mp4,{}\r\n"), ("captions_json", '{{"owl.mp4": "{}"}}')])
def test_lists_are_read_in_every_encoding(tmp_path, encoding, mark, file, form):
    folder = folder_of(tmp_path, "owl.mp4", **{file: mark + form.format(OWL).encode(encoding)})
    (caption, notes), unused = found(folder)[0]["owl.mp4"], found(folder)[1]
    assert caption == OWL and not unused
    assert [note.rpartition(" ")[2] for note in notes] == [encoding] * (encoding != "utf-8-sig")


def test_what_is_no_text_is_told_and_the_name_has_to_do(tmp_path):
    folder = folder_of(tmp_path, "red_owl.mp4", "b.mp4")
    (folder / "red_owl.txt").write_bytes(bytes(range(256)))
    (folder / "b.txt").write_bytes(codecs.BOM_UTF16_LE + b"\x00\xd8")  # half a character
    given, unused = found(folder)
    assert given == {"red_owl.mp4": ("red owl", ()), "b.mp4": ("b", ())}
    assert unused == [
        "b.txt: cannot be read (not a text in utf-16-le)",
        "red_owl.txt: cannot be read (not a text in utf-8 or cp1252)",
    ]


@pytest.mark.parametrize("in_list, on_disk", [(NFC, NFD), (NFD, NFC)])
def test_names_in_another_normal_form_are_the_same(tmp_path, in_list, on_disk):
    folder = folder_of(tmp_path, f"{on_disk}.mp4", f"b/{on_disk}.mp4", captions_csv=f"b/{in_list}.mp4,in the list")
    (folder / f"{in_list}.txt").write_text("beside")
    given, unused = found(folder)
    assert [caption for caption, _ in given.values()] == ["in the list", "beside"] and not unused


def test_captions_are_composed_and_that_is_told(tmp_path):
    given, _ = found(folder_of(tmp_path, "a.mp4", "b.mp4", a_txt=f"{NFD}\n", b_txt=f"  {NFC}\n"))
    assert given["a.mp4"] == (NFC, ("caption of a.txt brought to Unicode's composed form (NFC)",))
    assert given["b.mp4"] == (NFC, ())


def test_paths_of_windows_are_paths(tmp_path):
    folder = folder_of(
        tmp_path, "park/dog.mp4", "park/far/cat.mp4", captions_csv="park\\dog.mp4,dog\n.\\park\\far\\cat,cat"
    )
    given, unused = found(folder)
    assert [caption for caption, _ in given.values()] == ["dog", "cat"] and not unused


def test_every_caption_that_is_not_used_has_a_line(tmp_path):
    folder = folder_of(
        tmp_path,
        "dog.mp4",
        "dog.mov",
        "sub/cat.mp4",
        captions_json='{"dgo.mp4": "a dog", "cat": "a cat", "cat": "two cats"}',
        captions_csv="path,text\ndog,a dog\nsub/cat.mp4,a black cat\nsub/cat.mp4,a white cat\n",
        dog_txt="the dog runs",
        other_txt="nobody",
        dog_mp4_txt="the dog runs",
    )
    (folder / "sub" / "captions.csv").write_text("cat.mp4,never read")
    given, unused = found(folder)
    assert {name: caption for name, (caption, _) in given.items()} == {
        "dog.mov": "the dog runs",
        "dog.mp4": "the dog runs",
        "sub/cat.mp4": "a cat",
    }
    assert unused == [
        "other.txt: lies beside no video of that name",
        "captions.json entry 1 (dgo.mp4): names no video",
        "captions.json entry 3 (cat): the same video is named before, in captions.json entry 2 (cat)",
        "captions.csv line 2 (dog): dog.mp4 has another caption, in dog.txt",
        "captions.csv line 3 (sub/cat.mp4): sub/cat.mp4 has another caption, in captions.json entry 2 (cat)",
        "captions.csv line 4 (sub/cat.mp4): the same video is named before, in captions.csv line 3 (sub/cat.mp4)",
        "sub/captions.csv: not read, only captions.json and captions.csv of the folder itself are",
    ]


def test_a_caption_that_one_of_two_videos_takes_is_used(tmp_path):
    folder = folder_of(tmp_path, "a/dog.mp4", "b/dog.mp4", captions_csv="a/dog.mp4,first\ndog,second")
    given, unused = found(folder)
    assert [caption for caption, _ in given.values()] == ["first", "second"] and not unused


def test_what_is_altered_is_told(tmp_path):
    folder = folder_of(
        tmp_path, "a.mp4", "b.mp4", "c.mp4", captions_json='{"c": "half \\ud83d"}', a_txt="two\n\nlines\n", b_txt=" \n"
    )
    given, unused = found(folder)
    assert given["a.mp4"] == ("two lines", ("caption of a.txt line breaks and wide spaces are now single spaces",))
    assert given["b.mp4"] == ("", ("caption of b.txt is empty: no caption",))
    assert given["c.mp4"][0] == "half ?" and "lone surrogates" in given["c.mp4"][1][0] and not unused


def test_prompts_of_a_file_are_read_in_every_encoding(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes(codecs.BOM_UTF16_LE + OWL.encode("utf-16-le"))
    assert generator_prompts.from_file(path)(np.random.default_rng(0), "") == OWL
