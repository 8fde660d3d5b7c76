"""Trees of files in which only names count."""

from PIL import Image


def put(root, *names):
    """Write black pictures of 4 x 4 pixels below a folder."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(path)
    return root
