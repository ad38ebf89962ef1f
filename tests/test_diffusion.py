import torch

from synthcxr.diffusion import alpha_sigma, image_noise, min_snr_weight, noised, stratified_timesteps, v_target
from synthcxr.model.denoiser import build_scheduler
from synthcxr.runs import derive_seed

ALPHAS = build_scheduler().alphas_cumprod


def test_schedule_ends_in_pure_noise_and_keeps_variance():
    alpha, sigma = alpha_sigma(ALPHAS, torch.arange(1000))
    assert torch.allclose(alpha**2 + sigma**2, torch.ones_like(alpha), atol=1e-6)
    assert alpha[-1].item() == 0  # zero terminal signal-to-noise ratio


def test_v_gives_back_image_and_noise():
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 8, 3, 4, 4, generator=generator)
    alpha, sigma = alpha_sigma(ALPHAS, torch.tensor([0, 1, 50, 200, 500, 800, 998, 999]))
    noisy, v = noised(x, noise, alpha, sigma), v_target(x, noise, alpha, sigma)
    assert torch.allclose(alpha * noisy - sigma * v, x, atol=1e-5)
    assert torch.allclose(sigma * noisy + alpha * v, noise, atol=1e-5)


def test_diffusers_scheduler_has_the_same_target():
    scheduler, t = build_scheduler(), torch.tensor([3, 400])
    x, noise = torch.randn(2, 2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    alpha, sigma = alpha_sigma(ALPHAS, t)
    assert torch.allclose(v_target(x, noise, alpha, sigma), scheduler.get_velocity(x, noise, t), atol=1e-6)
    assert torch.allclose(noised(x, noise, alpha, sigma), scheduler.add_noise(x, noise, t), atol=1e-6)


def test_min_snr_weight_closed_form():
    alpha = torch.tensor([0.0, 0.5, 0.99]).sqrt()
    sigma = (1 - alpha**2).sqrt()
    assert torch.allclose(min_snr_weight(alpha, sigma, 5.0), torch.tensor([0.0, 0.5, 0.05]), atol=1e-5)


def test_timesteps_fall_one_into_each_stratum():
    uniform = torch.rand(50, generator=torch.Generator().manual_seed(0))
    t = stratified_timesteps(uniform, 1000)
    assert (t // 20).tolist() == list(range(50))
    assert stratified_timesteps(torch.full((4,), 0.999999999, dtype=torch.float64), 1000).max() == 999


def test_noise_of_an_image_depends_on_its_seed_alone():
    alone, batch = image_noise([7], (4, 8, 8)), image_noise([3, 7, 7], (4, 8, 8))
    assert torch.equal(alone[0], batch[1]) and torch.equal(batch[1], batch[2])
    assert not torch.equal(batch[0], batch[1])


def test_seeds_that_are_alike_in_32_bits_have_noise_of_their_own():
    seen: dict[int, int] = {}
    for seed in range(1_000_000):
        other = seen.setdefault(derive_seed(seed, "initial noise") & 0xFFFFFFFF, seed)
        if other != seed:
            break
    assert other != seed
    first, second = image_noise([other, seed], (4, 8, 8))
    assert (first - second).abs().max() > 1
