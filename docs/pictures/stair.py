"""Draw docs/pictures/stair.svg, the rooms of the package and who imports whom: `python -m docs.pictures.stair`.

The data are those of the import test, which also checks that the picture is up to date.
"""

from pathlib import Path

from tests.test_imports import FILES, ROOMS, rooms_imports

PICTURE = Path(__file__).with_name("stair.svg")
# Pixels: margins, the height of a tread, where the columns begin (right of the longest list of files), their width.
LEFT, TOP, HEIGHT, COLUMN, STEP = 20, 74, 64, 740, 52
STYLE = (
    "text{font:13px Helvetica,Arial,sans-serif;fill:#1f2933}.name{font-weight:bold;font-size:15px}"
    ".note{font-size:12px;fill:#52606d}"
    ".room{fill:#e8f0f8;stroke:#7b93ab}.line{stroke:#2f6f9f;stroke-width:2}.dot{fill:#2f6f9f}"
    ".start{fill:#fff;stroke:#2f6f9f;stroke-width:2}"
)


def edges() -> dict[tuple[str, str], list[str]]:
    """(importing room, imported room) -> the imports between them, as "file <- room.file"."""
    found: dict[tuple[str, str], list[str]] = {}
    for room, files in FILES.items():
        for file in files:
            for module in sorted(rooms_imports(f"{room}.{file}")):
                target = module.partition(".")[0]
                if target != room:
                    found.setdefault((room, target), []).append(f"{file} <- {module}")
    return found


def draw() -> str:
    """The picture as SVG text: a line from each room that imports, with a dot at each room it imports from."""
    rooms, found = list(ROOMS), edges()
    width, height = COLUMN + STEP * len(rooms) + LEFT, TOP + HEIGHT * len(rooms) + LEFT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        "<title>The seven rooms of minibert and their imports</title>",
        f"<style>{STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{LEFT}" y="30" class="name">Imports go down the stair only</text>',
        f'<text x="{LEFT}" y="52" class="note">'
        "A line starts at the room that imports and has a dot in each room it imports from. "
        "Within a room, a file imports only files to its left.</text>",
    ]
    x = {room: COLUMN + STEP * i + STEP // 2 for i, room in enumerate(rooms)}
    y = {room: TOP + HEIGHT * i for i, room in enumerate(rooms)}
    for room in rooms:
        right = x[room] + STEP // 2
        parts += [
            f'<rect x="{LEFT}" y="{y[room]}" width="{right - LEFT}" height="{HEIGHT}" class="room"/>',
            f'<text x="{LEFT + 12}" y="{y[room] + 26}" class="name">{room}</text>',
            f'<text x="{LEFT + 12}" y="{y[room] + 48}">{"  ·  ".join(FILES[room])}</text>',
        ]
    for room in rooms:
        targets = [target for target in rooms if (room, target) in found]
        if targets:
            start, end = y[room] + HEIGHT // 2, y[targets[-1]] + HEIGHT // 2
            parts.append(f'<line x1="{x[room]}" y1="{start}" x2="{x[room]}" y2="{end}" class="line"/>')
            parts.append(f'<circle cx="{x[room]}" cy="{start}" r="6" class="start"/>')
        for target in targets:
            title = f"{room} imports from {target}: " + ", ".join(found[room, target]).replace("<", "&lt;")
            place = f'cx="{x[room]}" cy="{y[target] + HEIGHT // 2}" r="6"'
            parts.append(f'<circle {place} class="dot"><title>{title}</title></circle>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(draw(), "utf-8", newline="\n")
