"""FrEIA, imported: its one warning is silenced here and nowhere else.

Python warns of an invalid escape in a docstring of FrEIA 0.2 whenever it compiles that file: in a
fresh installation, or where compiled files cannot be kept. Where warnings are errors, the import
would fail. Every module of this family takes FrEIA from here.
"""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # DeprecationWarning until Python 3.11, SyntaxWarning since; 3.14 words it the second way.
    warnings.filterwarnings(
        "ignore",
        message=r"invalid escape sequence '\\m'|\"\\m\" is an invalid escape sequence",
        module=r".*FrEIA\W+modules\W+all_in_one_block$",
    )
    from FrEIA import framework as framework
    from FrEIA import modules as modules
