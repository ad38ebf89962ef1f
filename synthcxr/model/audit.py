"""What a model's files say of its privacy audit."""

from synthcxr.config import Config


class AuditRecord(Config):
    """The outcome of a privacy audit, bound to what was audited by hashes: of the weights and of manifests.

    It holds for these weights alone: `weights` is the model's hash, and a model with another one is unaudited.

    Attributes:
        train, held_out, synthetic: sha256 of the manifests; of several datasets with spaces between.
        excess, excess_low, excess_high: share of synthetic images nearer to training images than patients who were held
            out are, beyond the share `alpha` of those; with its 95% interval.
        membership: AUC of the better membership test, None where none was run; 0.5 is best.
        images, held_out_patients: how many it rests on.
        failures: why it didn't pass, one line each; empty where it did.
    """

    weights: str
    train: str
    held_out: str
    synthetic: str
    alpha: float
    excess: float
    excess_low: float
    excess_high: float
    membership: float | None
    images: int
    held_out_patients: int
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.failures

    def passed_by(self, weights: str) -> bool:
        """Whether it was passed, and by the model of this hash."""
        return self.passed and self.weights == weights

    def __str__(self) -> str:
        """One line for a card."""
        told = (
            f"excess copy rate {self.excess:.2%} ({self.excess_low:.2%} to {self.excess_high:.2%}) at {self.alpha:.1%}"
        )
        member = "" if self.membership is None else f"; membership AUC {self.membership:.2f}"
        count = f"{self.images:,} synthetic images, {self.held_out_patients:,} held-out patients"
        why = f": {'; '.join(self.failures)}" if self.failures else ""
        return (
            f"{'passed' if self.passed else 'not passed'} ({told}{member}; {count}; weights `{self.weights[:12]}`){why}"
        )
