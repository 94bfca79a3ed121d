"""One ascent step of every running inversion, in one pass over the data."""

from torch import Tensor

from pydrift.ops import reference
from pydrift.ops.native import register_fake, run_op
from pydrift.ops.options import AscentOptions


def ascent_update(
    x: Tensor,
    gradient: Tensor,
    first_moment: Tensor,
    second_moment: Tensor,
    log_probability: Tensor,
    best_cost: Tensor,
    steps_without_improvement: Tensor,
    steps: Tensor,
    active: Tensor,
    *,
    options: AscentOptions,
) -> None:
    """Stops each active sample or moves it one step up its log-probability; works in place and returns nothing.

    For each sample n with `active[n]`, the stop rule first::

        cost = 1 - exp(log_probability)
        cost < best_cost:  best_cost = cost, steps_without_improvement = 0
        otherwise:         steps_without_improvement = steps_without_improvement + 1
        exp(log_probability) >= confidence_threshold, or steps_without_improvement >= patience:
            active = False, and nothing else changes

    and for a sample that goes on, `steps = steps + 1 = t` and, at every pixel, with old values of x throughout::

        g = gradient - tv_weight * dTV/dx - l2_weight * 2 x
            TV: squared differences between vertical and between horizontal neighbours, summed within a channel;
            dTV/dx_i = 2 * sum over the existing neighbours j of (x_i - x_j)
        adam:      m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
                   x = x + learning_rate * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)
        momentum:  m = beta1 m + g,  x = x + learning_rate * m
        x = min(max(x, lower), upper)

    =====================================  =============  =======  =====================================================
    argument                               shape          dtype    meaning
    =====================================  =============  =======  =====================================================
    x                                      [N, C, H, W]   float32  images; updated
    gradient                               [N, C, H, W]   float32  d log_probability / dx; read
    first_moment m, second_moment v        [N, C, H, W]   float32  start at 0; updated. momentum ignores v (pass [0])
    log_probability                        [N]            float32  log p_y at x; read
    best_cost                              [N]            float32  starts at +inf; updated
    steps_without_improvement, steps       [N]            int32    start at 0; updated
    active                                 [N]            bool     starts at True; updated
    =====================================  =============  =======  =====================================================

    Ranges: N >= 0; C, H, W >= 1 with C * H * W <= 2^30. Of the options: learning_rate and epsilon > 0; beta1 and beta2
    in [0, 1); tv_weight and l2_weight >= 0; lower <= upper; confidence_threshold > 0 (above 1: never reached);
    patience >= 1.
    Tensors are contiguous, on one device, and share no memory.

    Not finite: a sample with a NaN or an infinity in its gradient is stopped like one whose patience is over, so that
    its x and moments stay finite. Its best_cost and steps_without_improvement follow its log_probability. A NaN
    log_probability counts as no improvement. Inactive samples are left alone whatever they hold.

    Errors: ValueError with the argument's name, what it must be and what it is; also for a tensor that requires grad,
    since nothing here is differentiable. Nothing has been changed then. The plain-torch path takes any float dtype and
    leaves wrong shapes to torch.

    Determinism: each sample depends on its own data only, and every pixel on a fixed sequence of rounded operations
    (bias corrections and cost in float64). So scalar, AVX2 and AVX-512 code and any number of threads give the same
    bits; the environment variable PYDRIFT_SIMD=scalar|avx2|avx512 forces a variant. The plain-torch path and a GPU
    round the same way, but for the last float64 bit of `exp` and powers, of which float32 shows next to nothing.

    Source: MIFace (Fredrikson, Jha, Ristenpart 2015) for ascent with a stop at the cost or after a number of steps
    without gain; Adam (Kingma, Ba 2015); the squared total variation prior (Mahendran, Vedaldi 2015).
    """
    tensors = {
        "x": x,
        "gradient": gradient,
        "first_moment": first_moment,
        "second_moment": second_moment,
        "log_probability": log_probability,
        "best_cost": best_cost,
        "steps_without_improvement": steps_without_improvement,
        "steps": steps,
        "active": active,
    }
    run_op("ascent_update", reference.ascent_update, tensors, **vars(options))


def _fake(*tensors: Tensor, **options: object) -> None:
    """In place, no output."""


register_fake("ascent_update", _fake)
