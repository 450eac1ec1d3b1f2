"""Before any test: pages that tests read are not kept in the cache folder of whoever runs them."""

import os

os.environ["RAVE_MLX_PAGE_CACHE"] = "0"
