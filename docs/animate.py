"""Turn a part of a film into the animated picture at the top of the README:

python -m atari_dqn video checkpoint=RUN view=inspect output=film.mp4
python docs/animate.py film.mp4 docs/images/inspector.webp --start 10 --seconds 10
"""

import argparse
from pathlib import Path

import av
from PIL import Image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("film", type=Path)
    parser.add_argument("output", type=Path, help="a .webp or .gif file")
    parser.add_argument("--start", type=float, default=0.0, help="seconds of the film to skip")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--fps", type=int, default=15)
    parser.add_argument("--width", type=int, default=720, help="pixels")
    parser.add_argument("--quality", type=int, default=50, help="of a .webp file, at most 100")
    asked = parser.parse_args()

    pictures: list[Image.Image] = []
    with av.open(str(asked.film)) as film:
        for frame in film.decode(video=0):
            seconds = float(frame.time or 0) - asked.start
            if seconds >= asked.seconds:
                break
            if seconds >= len(pictures) / asked.fps:
                height = round(frame.height * asked.width / frame.width)
                pictures.append(frame.to_image().resize((asked.width, height), Image.Resampling.LANCZOS))
    first, *others = pictures
    first.save(
        asked.output,
        save_all=True,
        append_images=others,
        duration=1000 // asked.fps,
        loop=0,
        quality=asked.quality,
        method=6,
    )
    print(f"{asked.output}: {len(pictures)} pictures, {asked.output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
