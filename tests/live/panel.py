"""A page of viser's without a browser: what it was given, and hands that click; and
small assets to show in it. Not a test.

A handle has what it was made with as attributes; pressing one calls what listens to it.
"""

import contextlib
from types import SimpleNamespace

import numpy as np

from sdsjax.representations.gaussians import Gaussians


def splats():
    """Five, of which the first is dead: the second stands at (3, 4, 5)."""
    return Gaussians(
        means=np.arange(15, dtype=np.float32).reshape(5, 3),
        log_scales=np.full((5, 3), -2.0, np.float32),
        quats=np.tile(np.array([1.0, 0, 0, 0], np.float32), (5, 1)),
        opacity_logits=np.full(5, 2.0, np.float32),
        sh=np.zeros((5, 1, 3), np.float32),
        alive=np.arange(5) > 0,
    )


def moved(step):
    """The same, so that the first that is seen says the step: it stands at x = step."""
    return splats()._replace(means=np.arange(15.0).reshape(5, 3) + (step - 3))


def first_centre(node):
    """The x of the first splat that a node of the scene shows."""
    assert node.arrays["centers"].shape == (4, 3)
    return float(node.arrays["centers"][0, 0])


class Handle:
    """Something of a panel, or a node of the scene."""

    def __init__(self, name, **made):
        self.name, self.removed = name, False
        self.__dict__.update(made)
        self.value = made.get("initial_value", made.get("value"))
        self._listens = []

    def on_click(self, function):
        self._listens.append(function)

    on_update = on_click

    def click(self, client=None):
        for function in self._listens:
            function(SimpleNamespace(client=client))

    def remove(self):
        self.removed = True

    def set_gaussians(self, **arrays):
        self.arrays = arrays


class Gui:
    """Handles of a panel by their label; of Markdown in the order they were added."""

    def __init__(self):
        self.handles, self.texts = {}, []

    def _add(self, label, **made):
        self.handles[label] = Handle(label, **made)
        return self.handles[label]

    def _add_options(self, label, options, **made):
        return self._add(label, options=options, **made)

    add_text = add_number = add_button = add_checkbox = _add
    add_dropdown = _add_options

    def add_image(self, image, **made):
        return self._add("picture", image=image, **made)

    def add_progress_bar(self, value):
        return self._add("bar", value=value)

    def add_markdown(self, content):
        self.texts.append(Handle("text", content=content))
        return self.texts[-1]

    def add_tab_group(self):
        return SimpleNamespace(add_tab=lambda name: contextlib.nullcontext())

    def add_folder(self, name):
        return contextlib.nullcontext()


class Scene:
    """Nodes by their name, the newest of each."""

    def __init__(self):
        self.nodes = {}

    def _add(self, name, *arrays, **made):
        self.nodes[name] = Handle(name, **{"arrays": arrays, "visible": True, **made})
        return self.nodes[name]

    add_frame = add_label = add_point_cloud = add_mesh_trimesh = _add

    def add_gaussian_splats(self, name, **arrays):
        self.nodes[name] = Handle(name, arrays=arrays)
        return self.nodes[name]


class Page:
    """A server: its panel and its scene."""

    def __init__(self):
        self.gui, self.scene = Gui(), Scene()

    def __getitem__(self, label):
        return self.gui.handles[label]


class Client:
    """A visitor who is notified, and sent files."""

    def __init__(self):
        self.notes, self.files = [], []

    def add_notification(self, title, body, loading):
        self.notes.append(Handle(title, body=body, loading=loading))
        return self.notes[-1]

    def send_file_download(self, name, content, save_immediately):
        self.files.append((name, content, save_immediately))
