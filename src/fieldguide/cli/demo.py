"""``fieldguide demo``: one small network, real scans, a minute, a report."""

from pathlib import Path


def demo(*, out: Path = Path("runs")) -> None:
    """Train resnet_mini on 1,797 real scans of handwritten digits and write its report.

    Parameters
    ----------
    out
        Where the run folder is made.
    """
    from fieldguide.cli.train import train

    train("resnet_mini", data="digits", out=out)
    print("""
Now it is your turn:
  fieldguide train resnet_mini --data FOLDER     your own images, a sub-folder per class
  fieldguide train vit_mini --data digits        another architecture; `fieldguide models` lists all
  fieldguide info resnet_mini                    what you have just trained, layer by layer""")
