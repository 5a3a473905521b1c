"""``python -m tests.formats``: writes formats/ anew."""

from tests.formats.contents import FORMATS, contents

for name, data in contents().items():
    path = FORMATS / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    print(path, len(data))
