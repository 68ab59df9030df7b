"""A league of all estimators, on exact and on trained priors; see README.md.

python experiments/league/run.py            # exact prior, pictures: exact.py
python experiments/league/run.py --only sds ssd
python experiments/league/run.py --full     # toybox-sd, Gaussians: quality.py
python experiments/league/run.py --flow     # toybox-flow, Gaussians: quality.py
python experiments/league/run.py --full --noise   # its variance and bias: noise.py
"""

from __future__ import annotations

import exact
import noise
import quality

from sdsjax.studies.runner import run


def main(argv=None) -> None:
    flow = quality.experiment("toybox-flow", "--flow")
    run(argv, exact.experiment(), quality.experiment(), noise.experiment(), flow)


if __name__ == "__main__":
    main()
