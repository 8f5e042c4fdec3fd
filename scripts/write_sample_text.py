"""Write `data/input.txt`: 300 KB of the built-in stories, each followed by a line `<|endoftext|>`.

    python scripts/write_sample_text.py

They are the first training stories of seed 0, so they include no validation story.
Run it again when the grammar changes; a test fails if you forget.
"""

from pathlib import Path

from llamita.corpus.stories import stories, validation_stories

SIZE = 300_000
TARGET = Path(__file__).parent.parent / "data" / "input.txt"


def sample_text(size: int) -> str:
    """Whole stories, about `size` characters of them."""
    held_out = {story.text for story in validation_stories(0, 1000)}
    pieces, length = [], 0
    for story in stories(0, size, exclude=held_out):
        if length >= size:
            break
        pieces.append(f"{story.text}\n<|endoftext|>\n")
        length += len(pieces[-1])
    return "".join(pieces)


if __name__ == "__main__":
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(sample_text(SIZE), encoding="ascii", newline="\n")
    print(f"wrote {TARGET.stat().st_size:,} bytes to {TARGET}")
