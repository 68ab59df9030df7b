"""The mutants: what is changed in which file, and the tests that must see it.

`of` lists one file's mutants: (name, old text, new text, tests). The old text occurs
once in the file; tests are functions of the test file that is named first, or `other
file::function`, several of them joined by ' & '. EQUIVALENT explains the mutants that
no test can tell from the original.
"""

# fmt: off

from __future__ import annotations

from typing import NamedTuple

EQUIVALENT: dict[str, str] = {
    "near_pole": "between 88 and 89 degrees either up vector spans the same plane with "
    "the direction looked in, so that the camera is the same to rounding",
}


class Mutant(NamedTuple):
    """One small mistake in the package.

    file is relative to sdsjax/; tests are pytest's node ids; explanation, if any, says
    why no test can see it.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    explanation: str


def of(file: str, test_file: str, *rows: tuple[str, str, str, str]) -> list[Mutant]:
    """Makes the mutants of one file."""
    made = []
    for name, old, new, tests in rows:
        nodes = (t if "::" in t else f"{test_file}::{t}" for t in tests.split(" & "))
        ids = tuple(f"tests/{node}" for node in nodes)
        made.append(Mutant(name, file, old, new, ids, EQUIVALENT.get(name, "")))
    return made


DIFFUSION = [
    *of("diffusion/noise_schedules.py", "diffusion/test_noise_schedules.py",
        ("sd_beta_end", "beta_end: float = 0.012", "beta_end: float = 0.0121",
         "test_published_end_points"),
        ("ddpm_beta_end", "beta_end: float = 0.02\n", "beta_end: float = 0.021\n",
         "test_schedules_are_their_published_formulas"),
        ("cosine_offset", "(u + 0.008) / 1.008", "(u + 0.009) / 1.009",
         "test_schedules_are_their_published_formulas"),
        ("cosine_cap", "max_beta: float = 0.999\n", "max_beta: float = 0.9999\n",
         "test_schedules_are_their_published_formulas"),
        ("ddim_sign", "stepped = alpha * zhat + sigma",
         "stepped = alpha * zhat - sigma",
         "test_ddim_with_the_exact_noise_of_a_point_lands_on_it"),
        ("velocity_sign", "alpha * velocity + sigma * z_t",
         "alpha * velocity - sigma * z_t",
         "test_velocity_converts_to_the_noise_it_holds"),
        ("flow_shift_inverted", "shift * u / total", "u / total",
         "test_flow_matching_is_its_published_formula"),
        ("flow_velocity_unscaled", "return z_t + alpha * velocity",
         "return z_t + velocity",
         "test_flow_velocity_converts_to_the_noise_it_holds")),
    *of("diffusion/guidance.py", "diffusion/test_noise_schedules.py",
        ("guidance_omega", "uncond + guidance_scale *", "cond + guidance_scale *",
         "test_guidance_convention"),
        ("rescale_by_the_guided_spread", "jnp.std(wide - sigma * cond)",
         "jnp.std(wide)",
         "estimators/test_guidance_rescale.py::test_a_case_worked_out_by_hand"),
        ("rescale_view_by_view", "spread, wanted = jnp.std(clean),",
         "spread, wanted = jnp.std(clean, axis=(-3, -2, -1), keepdims=True),",
         "estimators/test_guidance_rescale.py::"
         "test_contract_of_every_guided_estimator")),
    *of("diffusion/timesteps.py", "diffusion/test_timesteps.py",
        ("uniform_without_its_end", "(high - low + 1.0)", "(high - low)",
         "test_uniform_reaches_both_ends_evenly"),
        ("switch_one_step_late", ">= switch", "> switch",
         "test_two_phase_switches_at_a_third"),
        ("window_rounded_down", "jnp.round(high)", "jnp.floor(high)",
         "test_annealed_window_falls_linearly"),
        ("window_until_the_end", "_fraction(step, total) / until",
         "_fraction(step, total)", "test_falling_window_is_the_published_one"),
        ("cosine_is_a_sine", "1 + jnp.cos(", "1 + jnp.sin(",
         "test_fixed_schedules_follow_their_formulas"),
        ("dreamtime_deviation", "s1: int = 300", "s1: int = 310",
         "test_dreamtime_never_rises_and_spends_its_time_as_weighted")),
    *of("diffusion/prompts.py", "test_cameras.py",
        ("overhead_cone", "overhead: float = 60.0,\n", "overhead: float = 50.0,\n",
         "test_view_words_by_angle"),
        ("perp_neg_overhead_cone", "overhead: float = 60.0\n",
         "overhead: float = 50.0\n",
         "priors/test_perp_neg.py::"
         "test_from_above_there_is_one_prompt_and_no_negative"),
        ("front_without_its_rim", "jnp.abs(turn) <= half_angle",
         "jnp.abs(turn) < half_angle", "test_view_words_by_angle"),
        ("back_with_its_rim", "jnp.abs(turn) > 180.0", "jnp.abs(turn) >= 180.0",
         "test_view_words_by_angle"),
        ("side_before_back", "SIDE_BACK = (1.0, 0.5, -0.606)",
         "SIDE_BACK = (1.0, 0.5, -0.62)",
         "priors/test_perp_neg.py::test_weights_follow_the_published_curves"),
        ("decay_rate", "SIDE_FRONT = (4.0, 0.5,", "SIDE_FRONT = (4.0, 0.6,",
         "priors/test_perp_neg.py::test_weights_follow_the_published_curves"),
        ("perpendicular_sign", "return a - share", "return a + share",
         "priors/test_perp_neg.py::test_the_perpendicular_part_is_perpendicular")),
]

ESTIMATORS = [
    *of("estimators/common.py", "estimators/test_closed_forms.py",
        ("residual_upside_down", "d = sigma / alpha * d", "d = alpha / sigma * d",
         "test_the_l2_forms_are_sds_times_sigma_over_alpha")),
    *of("estimators/csd.py", "estimators/test_vsd.py",
        ("csd_shares", "(1.0 + a) * uncond", "(1.0 - a) * uncond",
         "test_csd_moves_from_the_negative_prompt_to_none")),
    *of("estimators/denoised_l2.py", "estimators/test_image_space.py",
        ("one_stride_too_many", "tau > t - (steps - 1)", "tau >= t - (steps - 1)",
         "test_the_last_of_the_steps_lands_on_z_wherever_it_starts"),
        ("ancestral_ratio_of_alphas", "q = alpha * sigma_next / (alpha_next * sigma)",
         "q = alpha / alpha_next",
         "test_ancestral_steps_have_the_variance_they_should"),
        ("ancestral_variance", "sigma_next**2 - fresh**2", "sigma_next**2 + fresh**2",
         "test_ancestral_steps_have_the_variance_they_should")),
    *of("estimators/editing/pairs.py", "estimators/test_editing.py",
        ("source_under_other_noise", "(schedule, z_source, eps, t)",
         "(schedule, z_source, -eps, t)", "test_the_moments_of_dds"),
        ("edit_upside_down", "difference = target - guided(",
         "difference = -target + guided(", "test_the_moments_of_dds")),
    *of("estimators/editing/pds.py", "estimators/test_editing.py",
        ("beta_of_two_steps", "kept = alpha / alphas[t - 1]",
         "kept = alpha / alphas[t - 2]",
         "test_the_mean_of_pds"),
        ("pds_pull", "psi * pair.moved", "-psi * pair.moved", "test_the_mean_of_pds")),
    *of("estimators/image_space.py", "estimators/test_image_space.py",
        ("image_not_centred", "(2.0 * rgb - 1.0)", "(2.0 * rgb - 0.9)",
         "test_the_image_is_what_was_rendered")),
    *of("estimators/inversion.py", "estimators/test_inversion.py",
        ("time_zero_is_clean", "clean = t < 0", "clean = t <= 0",
         "test_only_the_time_before_zero_is_clean"),
        ("renoise_sign", "zhat + sigma_next", "zhat - sigma_next",
         "test_what_is_inverted_is_sampled_back")),
    *of("estimators/nfsd.py", "estimators/test_closed_forms.py",
        ("nfsd_switch", "t < switch_time", "t <= switch_time",
         "test_mean_and_variance[nfsd late]")),
    *of("estimators/ssd.py", "estimators/test_ssd.py",
        ("ssd_threshold", "seek = t <= threshold", "seek = t < threshold",
         "test_above_the_threshold_is_h_and_below_is_scaled_to_it")),
    *of("estimators/sdi.py", "estimators/test_inversion.py",
        ("sdi_shares", "(1.0 - eta**2) ** 0.5", "(1.0 - eta) ** 0.5",
         "test_sdi_against_the_same_chain_in_float64")),
    *of("estimators/stein.py", "estimators/test_stein.py",
        ("printed_sign", "eps * value - sigma * slope", "eps * value + sigma * slope",
         "test_every_control_variate_has_mean_zero")),
    *of("estimators/stein_mu.py", "estimators/test_stein.py",
        ("pseudo_observations", "PSEUDO_OBSERVATIONS = 10.0",
         "PSEUDO_OBSERVATIONS = 11.0",
         "test_optimal_mu_shrinks_single_observations_and_guards_zero")),
    *of("estimators/stein_baseline.py", "estimators/test_stein.py",
        ("baseline_opaque", "OPAQUE = 0.5", "OPAQUE = 0.55",
         "test_the_losses_vanish_where_they_should")),
    *of("estimators/vsd.py", "estimators/test_vsd.py",
        ("camera_kept", "(key_drop) < drop_camera", "(key_drop) > drop_camera",
         "test_a_dropped_camera_is_the_null_camera")),
]

LOSSES = of("losses.py", "test_ray_losses.py",
    ("sparsity_floor", "opacity**2 + 0.01)", "opacity**2 + 0.012)",
     "representations/gaussians/test_gaussian_cloud.py::test_losses_by_hand"),
    ("entropy_clamp", "jnp.clip(opacity, 1e-3, 1 - 1e-3)",
     "jnp.clip(opacity, 2e-3, 1 - 2e-3)",
     "representations/gaussians/test_gaussian_cloud.py::test_losses_by_hand"),
    ("anisotropy_limit", "limit: float = 10.0", "limit: float = 11.0",
     "representations/gaussians/test_gaussian_cloud.py::test_losses_by_hand"),
    ("variation_across_dropped", "jnp.mean(down) + jnp.mean(across)", "jnp.mean(down)",
     "representations/gaussians/test_gaussian_cloud.py::test_losses_by_hand"),
    ("surface_at_half", "jnp.sum(weights, axis=-1) > OPAQUE",
     "jnp.sum(weights, axis=-1) >= OPAQUE",
     "test_z_variance_equals_a_loop_in_every_reduction"),
    ("opaque_threshold", "OPAQUE = 0.5", "OPAQUE = 0.52",
     "test_z_variance_equals_a_loop_in_every_reduction & "
     "test_normals_are_smooth_over_opaque_pairs_only"),
    ("distortion_within", "edges, axis=-1), axis=-1) / 3",
     "edges, axis=-1), axis=-1) / 2", "test_distortion_equals_a_loop"))

RENDER = [
    *of("render/splatting/project.py", "render/splatting/test_project.py",
        ("low_pass", "LOW_PASS = 0.3\n", "LOW_PASS = 0.31\n",
         "test_conic_is_the_inverse_of_the_projected_covariance"),
        ("frustum_margin", "FRUSTUM_MARGIN = 0.3\n", "FRUSTUM_MARGIN = 0.35\n",
         "test_jacobian_is_clamped_beyond_the_frustum"),
        ("near_plane", "NEAR = 0.01\n", "NEAR = 0.02\n",
         "test_hidden_splats_have_no_extent"),
        ("min_alpha", "MIN_ALPHA = 1 / 255", "MIN_ALPHA = 1 / 256",
         "test_hidden_splats_have_no_extent"),
        ("rotation_sign", "2 * (x * y - w * z)", "2 * (x * y + w * z)",
         "test_rotations_are_rotations_and_a_zero_quaternion_is_none")),
    *of("render/splatting/composite.py", "render/splatting/test_rasterize.py",
        ("early_stop", "MIN_TRANSMITTANCE = 1e-4", "MIN_TRANSMITTANCE = 1e-3",
         "test_the_stop_comes_before_a_ten_thousandth_is_left"),
        ("stop_one_splat_late", "before - weight > MIN", "before > MIN",
         "test_opaque_stack_stops_where_the_reference_stops"),
        ("conic_gradient", "0.5 * dxx, dxy, 0.5 * dyy",
         "0.5 * dxx, 0.5 * dxy, 0.5 * dyy",
         "render/splatting/test_gradients.py::"
         "test_gradient_equals_autodiff_of_the_reference")),
    *of("render/splatting/rasterize.py", "render/splatting/test_rasterize.py",
        ("depth_not_divided", "sums[..., 3] * share", "sums[..., 3]",
         "test_one_isotropic_gaussian_is_the_formula"),
        ("normal_not_divided", "sums[..., 4:7] * share[..., None]", "sums[..., 4:7]",
         "test_one_isotropic_gaussian_is_the_formula"),
        ("rows_as_columns", "transpose(0, 3, 1, 4, 2)", "transpose(0, 4, 1, 3, 2)",
         "test_pictures_equal_the_reference")),
    *of("render/splatting/binning.py", "render/splatting/test_binning.py",
        ("last_tile_left_out", "grid.size + 1 - low", "grid.size - low",
         "test_lists_equal_brute_force"),
        ("ellipse_mirrored", "square + b * dx * dy", "square - b * dx * dy",
         "test_lists_equal_brute_force")),
    *of("render/spherical_harmonics.py", "render/test_spherical_harmonics.py",
        ("degree_two_term", "b * (2 * zz - xx - yy), -a", "b * (3 * zz - xx - yy), -a",
         "test_basis_is_orthonormal"),
        ("harmonic_sign", "-a * y * z", "a * y * z",
         "test_signs_and_order_of_gaussian_splatting"),
        ("colour_offset", "axis=-2) + 0.5, 0.0)", "axis=-2) + 0.4, 0.0)",
         "test_higher_coefficients_at_zero_change_nothing")),
    *of("render/raymarching/volume_rendering.py",
        "render/raymarching/test_volume_rendering.py",
        ("weights_not_shifted", "[start, reached[..., :-1]]",
         "[start, reached[..., 1:]]", "test_weights_equal_a_loop"),
        ("ray_near", "near: float = 0.01", "near: float = 0.02",
         "test_rays_meet_the_box_where_they_should"),
        ("background_twice", "rgb + (1 - opacity)", "rgb + (1 + opacity)",
         "test_what_is_not_covered_shows_the_background")),
    *of("render/raymarching/importance_sampling.py",
        "render/raymarching/test_importance_sampling.py",
        ("ties_lost", "first[..., None, :] <= second", "first[..., None, :] < second",
         "test_merging_is_sorting_with_ties_too"),
        ("pdf_floor", "floor: float = 1e-5", "floor: float = 1e-4",
         "test_samples_of_closed_forms"),
        ("touching_bins_overlap", "edges[..., None, :-1] < end",
         "edges[..., None, :-1] <= end",
         "representations/radiance_field/test_proposal.py::"
         "test_bound_and_loss_equal_their_definition")),
]

REPRESENTATIONS = [
    *of("representations/radiance_field/hash_grid_level.py",
        "representations/radiance_field/test_hash_grid.py",
        ("hash_prime", "2654435761, 805459861)\n", "2654435763, 805459861)\n",
         "test_values_equal_the_reference"),
        ("second_hash_prime", "2654435761, 805459861)\n", "2654435761, 805459863)\n",
         "test_values_equal_the_reference"),
        ("half_cell", "x * scale + 0.5", "x * scale + 0.25",
         "test_cells_meet_without_a_step"),
        ("smooth_rate", "rate = scale * 6 *", "rate = scale * 3 *",
         "test_slopes_are_differences_of_the_reference_and_have_their_own_gradient")),
    *of("representations/radiance_field/hash_grid.py",
        "representations/radiance_field/test_hash_grid.py",
        ("init_span", "INIT_SPAN = 1e-4", "INIT_SPAN = 1.1e-4",
         "test_tables_begin_small_and_in_float32"),
        ("band_one_level_early", "opened - order, 0.0", "opened - order + 1, 0.0",
         "test_the_band_opens_one_level_after_the_other")),
    *of("representations/radiance_field/field.py",
        "representations/radiance_field/test_radiance_field.py",
        ("blob_sign", "(1 - length / field.blob_radius)",
         "(1 + length / field.blob_radius)", "test_density_is_that_of_the_blob"),
        ("exp_ceiling", "jnp.minimum(u, 15.0)", "jnp.minimum(u, 14.0)",
         "test_density_is_that_of_the_blob")),
    *of("representations/radiance_field/scene_contraction.py",
        "representations/radiance_field/test_scenes.py",
        ("contraction_radius", "(2 - 1 / length) / length", "(2 + 1 / length) / length",
         "test_contraction_by_hand")),
    *of("representations/radiance_field/occupancy_grid.py",
        "representations/radiance_field/test_occupancy_grid.py",
        ("occupancy_threshold", "DECAY, THRESHOLD = 0.95, 0.01",
         "DECAY, THRESHOLD = 0.95, 0.011",
         "test_the_threshold_is_the_mean_or_a_hundredth"),
        ("unknown_is_empty", "values >= jnp.minimum", "values > jnp.minimum",
         "test_the_threshold_is_the_mean_or_a_hundredth")),
    *of("representations/gaussians/density_control/clone_split_prune.py",
        "representations/gaussians/test_density_control.py",
        ("split_shrink", "SPLIT_SHRINK = 1.6", "SPLIT_SHRINK = 1.5",
         "test_a_large_one_is_split_into_two_draws_of_itself"),
        ("growth_at_the_threshold", "score > settings.threshold",
         "score >= settings.threshold",
         "test_a_small_gaussian_with_a_high_gradient_is_cloned")),
    *of("representations/gaussians/density_control/edits.py",
        "representations/gaussians/test_density_control.py",
        ("edit_starts_late", "done >= start", "done > start",
         "test_views_add_up_until_an_edit_is_due"),
        ("edit_stops_early", "done <= stop", "done < stop",
         "test_edits_are_due_from_their_start_to_their_stop")),
    *of("representations/gaussians/density_control/mcmc.py",
        "representations/gaussians/test_density_control.py",
        ("wander_steepness", "sigmoid(-100.0 *", "sigmoid(-90.0 *",
         "test_noise_moves_the_faint_along_their_covariance"),
        ("sharers", "MAX_SHARERS = 51", "MAX_SHARERS = 50",
         "test_no_more_than_51_share_a_place")),
    *of("representations/gaussians/density_control/relocation.py",
        "representations/gaussians/test_relocation.py",
        ("trapezoid_end", "weights[0] /= 2", "weights[0] /= 1",
         "test_formula_against_loops_in_float64")),
    *of("representations/gaussians/density_control/row_placement.py",
        "representations/gaussians/test_row_placement.py",
        ("free_rank", "dtype=jnp.int32) - 1", "dtype=jnp.int32)",
         "test_copies_fill_free_rows_in_order_of_score")),
]

CHECKPOINTS = of("runs/checkpoints.py", "runs/test_checkpoints.py",
    ("one_more_kept", "[: -self.keep]", "[: -self.keep - 1]",
     "test_disk_cap_keeps_the_newest"),
    ("changed_file_passes", "found[name] != recorded[name]", "found[name] is None",
     "test_any_damaged_file_is_announced_and_the_step_before_loads"),
    ("links_pass", "if path.is_symlink():", "if False:", "test_links_are_refused"),
    ("arrays_unchecked", 'if digest(state) != manifest["state_sha256"]', "if False",
     "test_arrays_are_checked_beyond_the_files"),
    ("digest_without_shape", "{leaf.dtype} {leaf.shape}\\n", "{leaf.dtype}\\n",
     "test_round_trip_is_exact_for_every_type"),
    ("step_unchecked", "== (FORMAT, step)", '== (FORMAT, manifest["step"])',
     "test_a_manifest_of_another_step_is_not_this_one"))

CAMERAS = of("cameras.py", "test_cameras.py",
    ("near_pole", "NEAR_POLE = 89.0", "NEAR_POLE = 88.0",
     "test_rotation_is_proper_everywhere_even_straight_down & "
     "test_angles_invert_the_orbit"),
    ("handedness", "down = jnp.cross(forward, right)",
     "down = jnp.cross(right, forward)",
     "test_rotation_is_proper_everywhere_even_straight_down"),
    ("field_of_view", "focal = 0.5 * height / jnp.tan(0.5 *",
     "focal = 0.5 * height / jnp.tan(0.6 *",
     "test_front_view_shows_plus_x_on_the_right_and_up_is_up"),
    ("overhead_range", "minval=60.0, maxval=85.0", "minval=60.0, maxval=88.0",
     "test_overhead_fraction"),
    ("stratum_of_the_batch", "stratum / count", "stratum / (count + 1)",
     "test_random_views_stay_in_range_and_are_stratified"),
    ("elevation_from_xz", "jnp.sqrt(x**2 + z**2)", "jnp.sqrt(x**2 + y**2)",
     "test_angles_invert_the_orbit"))

DIAGNOSTICS = of("diagnostics/gradient_stats.py", "diagnostics/test_gradient_stats.py",
    ("ddof", "jnp.std(values, ddof=1)", "jnp.std(values, ddof=0)",
     "test_errors_of_means_and_intervals_are_students"),
    ("biased_variance", "return scatter / (count - 1)", "return scatter / count",
     "test_streaming_is_the_two_pass_computation"),
    ("signal_bias_kept", "square - total_variance(count, scatter) / count", "square",
     "test_streaming_is_the_two_pass_computation"),
    ("jackknife_factor", "(groups - 1) / groups * spread",
     "groups / (groups - 1) * spread", "test_streaming_is_the_two_pass_computation"),
    ("half_level", "0.5 + 0.5 * level", "0.5 * level",
     "test_errors_of_means_and_intervals_are_students"))

MUTANTS = [
    *DIFFUSION, *ESTIMATORS, *LOSSES, *RENDER, *REPRESENTATIONS, *CHECKPOINTS,
    *CAMERAS, *DIAGNOSTICS,
]
