"""`python -m enginesim serve MODEL …`, the command line of vLLM."""

import asyncio
import logging
import sys

from .options import parse_options
from .server import serve


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    return asyncio.run(serve(parse_options(sys.argv[1:])))


if __name__ == "__main__":
    sys.exit(main())
