"""The libraries that benches compare ours with."""

from bench.peers import present


def test_one_that_is_not_installed_is_left_out_with_a_line(capsys):
    peers = {"there": ("numpy", None), "absent": ("no_such_library", None)}
    assert present(["ours", "there", "absent"], peers, "install it") == ["ours", "there"]
    assert capsys.readouterr().out == "absent is left out: no_such_library is not installed; install it\n"
