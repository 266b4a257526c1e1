"""Stacks of frames: the same from memory and from a file, however many there are, and nothing left behind."""

import gc
import tempfile

import numpy as np
import pytest

from motionv2v import stacks


def test_what_does_not_fit_in_memory_is_stored_and_reads_the_same(monkeypatch):
    gc.collect()
    monkeypatch.setattr(stacks, "MOST", stacks._held + 100)
    held, parts = stacks._held, np.arange(5 * 3 * 4, dtype=np.int16).reshape(5, 3, 4)
    small, large = stacks.zeros((5, 4), np.float32), stacks.zeros((5, 3, 4), np.int16)
    assert isinstance(small, np.ndarray) and isinstance(large, stacks.Stored) and stacks._held == held + 80
    assert large.shape == (5, 3, 4) and large.ndim == 3 and len(large) == 5 and not large[4].any()
    for t in np.arange(5):
        large[t] = parts[t]
    large[2] |= 64
    np.testing.assert_array_equal(large, np.where(np.arange(5)[:, None, None] == 2, parts | 64, parts))
    np.testing.assert_array_equal(list(large[3::-2]), parts[3::-2])
    np.testing.assert_array_equal(large[-1], parts[4])
    assert large[1:4].shape == (3, 3, 4) and large[1].flags.writeable
    with pytest.raises(IndexError):
        large[5]
    del small
    gc.collect()
    assert stacks._held == held, "what is gone makes room"
    assert isinstance(stacks.zeros((5, 4), np.float32), np.ndarray)


@pytest.mark.parametrize("most", [0, 10**9])
def test_a_stack_grows(most, monkeypatch):
    monkeypatch.setattr(stacks, "MOST", most)
    stack = stacks.zeros((2, 3), np.uint8)
    stack[1] = 7
    np.testing.assert_array_equal(stacks.lengthened(stack, 4), [[0] * 3, [7] * 3, [0] * 3, [0] * 3])


def test_a_stored_stack_leaves_no_file(monkeypatch, tmp_path):
    monkeypatch.setattr(stacks, "MOST", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stack = stacks.zeros((3, 1000), np.uint8)
    stack[2] = 1
    assert list(tmp_path.iterdir()) == [], "it has no name, so that it goes with the process"


def test_no_room_on_the_disk_is_one_line(monkeypatch):
    monkeypatch.setattr(stacks, "MOST", 0)
    stack = stacks.zeros((3, 10), np.uint8)

    class Full:
        def seek(self, _):
            pass

        def write(self, _):
            raise OSError(28, "No space left on device")

    stack._file = Full()
    with pytest.raises(OSError, match=r"a clip of 3 frames finds no room in .*TMPDIR.*: No space left") as caught:
        stack[0] = 1
    assert "\n" not in str(caught.value)


def test_what_is_kept_is_bounded_by_its_bytes():
    made = []
    kept = stacks.Kept(lambda t: made.append(t) or (np.zeros(40, np.uint8), None), 100)
    for t in (0, 1, 0, 2, 0, 1):
        assert len(kept(t)[0]) == 40
    assert made == [0, 1, 2, 1], "the one used longest ago went"
