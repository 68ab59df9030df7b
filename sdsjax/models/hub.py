"""Loading of networks, under the path that other code imports: loading/hub."""

from sdsjax.models.loading.hub import *  # noqa: F403
