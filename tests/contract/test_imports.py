"""Public names resolve, and importing them stays light."""

from __future__ import annotations

import fairloss


def test_public_names_resolve_and_import_stays_light():
    import subprocess
    import sys

    for name in fairloss.__all__:
        assert getattr(fairloss, name) is not None
    code = (
        "import sys, fairloss; assert 'torch' not in sys.modules and 'numpy' not in sys.modules; fairloss.MaxAccGapLoss"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_losses_import_no_compiler():
    """Importing torch's compiler takes as long again as importing torch."""
    import subprocess
    import sys

    code = "import sys, torch; before = 'torch._dynamo' in sys.modules; import fairloss.functional, fairloss.policy"
    code += "; assert before or 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
