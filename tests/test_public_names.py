"""The public interface: few names, each documented, each imported only when it is used."""

import inspect
import subprocess
import sys

import pydrift


def test_every_public_name_is_there_and_documented():
    assert sorted(pydrift.__all__) == pydrift.__all__ == sorted(pydrift._HOME) == dir(pydrift)
    assert 20 <= len(pydrift.__all__) <= 30
    for name in set(pydrift.__all__) - {"__version__"}:
        doc = inspect.getdoc(getattr(pydrift, name))
        assert doc, name
        assert doc.split("\n\n")[0].rstrip().endswith((".", ":", "?")), name


def test_importing_the_package_loads_no_heavy_library():
    code = "import pydrift, sys; sys.exit(str({'torch', 'scipy', 'numpy', 'sklearn'} & set(sys.modules) or ''))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == ""
