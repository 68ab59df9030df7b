"""What a run leaves behind, all written by `export_run.export_all`.

Pictures and turntables (`pictures`, `video`), splats (`ply`, `splat_files`), meshes
(`mesh`, `texture`, `glb`), both by the name of their format (`formats`), the report
(`report`, `variance_section`, `viewer`), several runs on one page (`compare`);
`written_files` keeps account. Imports the toybox's scoring, runs, diagnostics,
representations and render; training calls it.
"""

from sdsjax.exports.export_run import export_all, tasks_ahead
from sdsjax.exports.written_files import (
    ExportError,
    find_previews,
    write_image,
    write_json,
)

__all__ = [
    "ExportError",
    "export_all",
    "find_previews",
    "tasks_ahead",
    "write_image",
    "write_json",
]
