"""The editor page: python launch/editor.py --video=clip.mp4, which opens it in the browser and prints its address.

Click on a thing to name a point, drag it to bend its path, see the draft, run a model. All that was done is kept in the
workspace; the same command goes on where it was. Needs the extra `editor`. Bad input is exit code 2.
"""

import webbrowser

from absl import app, flags

from motionv2v import cli, trackers
from motionv2v.editing.session import Session

VIDEO = flags.DEFINE_string("video", None, "the clip, picture or project (.mv2v) to open; default: what was open")
WORKSPACE = flags.DEFINE_string("workspace", "outputs/editor", "folder of the project, its clips and its runs")
CHECKPOINT = flags.DEFINE_string("checkpoint", "draft", "what *Run* begins with: draft, released name, model folder")
PORT = flags.DEFINE_integer("port", 0, "port on this machine; 0: a free one", lower_bound=0, upper_bound=65535)
BROWSER = flags.DEFINE_bool("browser", True, "open the page in the browser")
TRACKER = flags.DEFINE_string("tracker", trackers.DEFAULT, "lk, dis, multistep, or tapnext:FILE with its weights")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    cli.start(with_jax=False)
    try:
        try:
            from motionv2v.editing import server
        except ImportError as error:
            raise ValueError(f"the page needs the extra editor ({error}): pip install -e '.[editor]'") from None
        session = Session(WORKSPACE.value, TRACKER.value, CHECKPOINT.value)
        if VIDEO.value:
            for notice in session.open_once(VIDEO.value):
                print(f"notice  {notice}")
        server.serve(session, PORT.value, opened=webbrowser.open if BROWSER.value else None)
    except KeyboardInterrupt:
        print("stopped; the same command goes on")
    except cli.expected() as error:
        cli.refuse("editor", error)


if __name__ == "__main__":
    app.run(main)
