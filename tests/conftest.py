"""Before any test: what would make tests slow each other down, or write into the folders of whoever runs them."""

import os

os.environ["RAVE_MLX_PAGE_CACHE"] = "0"  # Pages that tests read are not kept.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # Processes that tests start would compile every module again.
os.environ["RAVE_MLX_KERNELS"] = "none"  # Tests of the kernels build their own; whether the user has some is no matter.
if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores: with several threads each, BLAS spends most of its time waiting for a turn.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
