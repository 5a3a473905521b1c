"""Parts of a report: statistics of layers and of all of them, and histograms of codes."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Statistics(BaseModel):
    """Size and error of a layer, or of all layers."""

    model_config = ConfigDict(frozen=True)

    parameters: int = Field(description="Trained weights that are stored.")
    bytes: int = Field(
        description="A layer: its codes, scales and floats, or what its part of the entropy-coded "
        "stream cost. The total: the whole file on disk."
    )
    bytes_before: int = Field(
        description="The same for the adapter that was measured against, as it is stored."
    )
    bits_per_parameter: float = Field(description="8 · bytes / parameters.")
    bits_spent: float = Field(
        default=0.0,
        description="8 · bytes before they are made whole. Entropy-coded layers: −log2 of how "
        "often each of their codes occurs in all layers, added up and scaled to the stream.",
    )
    relative_error: float = Field(description="‖ΔW − ΔŴ‖ / ‖ΔW‖, Frobenius; 0 where ΔW is zero.")
    snr_db: float | None = Field(description="−20·log10(relative_error); null without any error.")
    energy_kept: float = Field(description="‖ΔŴ‖² / ‖ΔW‖²; 1 where ΔW is zero.")
    cosine: float | None = Field(
        default=None, description="⟨ΔW, ΔŴ⟩ / (‖ΔW‖·‖ΔŴ‖); null where either is zero."
    )
    spectral_error: float = Field(
        default=0.0,
        description="‖ΔW − ΔŴ‖₂ / ‖ΔW‖₂, largest singular values; the total: of the largest of all "
        "layers. Exact but for layers with a large whole B, there to 1e-4. 0 where ΔW is zero.",
    )
    activation_error: float | None = Field(
        default=None,
        description="√(E‖(ΔW − ΔŴ)·x‖² / E‖ΔW·x‖²) over the inputs x that calibration saw; null "
        "without calibration, or where ΔW does nothing to any x.",
    )
    activation_snr_db: float | None = Field(
        default=None, description="−20·log10(activation_error); null without any."
    )
    loss_error: float | None = Field(
        default=None,
        description="√(E(g·(ΔW − ΔŴ)·x)² / E(g·ΔW·x)²), g being the loss's gradient at the layer's "
        "output and independent of x; null where no gradients were seen.",
    )
    zero_share: float | None = Field(
        default=None, description="The share of codes that are zero; null without codes."
    )
    clipped_share: float | None = Field(
        default=None,
        description="The share of values beyond the outermost code's cell, more than half a step "
        "from that code, when they were rounded; with error feedback, a value is what was left to "
        "the code to make good. Null without codes, for entropy-coded ones, which have no "
        "outermost code, and for codes read from a file.",
    )
    dead_components: int | None = Field(
        default=None,
        description="Rank components of B that add nothing: all codes of a column of B1 or of a "
        "row of B2 are zero, or all of A; null where no B has components.",
    )


class TotalStatistics(Statistics):
    """Statistics of all layers together, as one file."""

    bound_snr_db: float | None = Field(
        description="The SNR of ΔW that an ideal code of Gaussian factors with the same singular "
        "components could reach in as many bits; null without any error."
    )
    bits_above_bound: float | None = Field(
        description="bits_per_parameter, less those that such a code needs for the same relative "
        "error; null without any error."
    )


class LayerStatistics(Statistics):
    """Statistics of one layer."""

    name: str
    shape: tuple[int, int] = Field(description="[d_out, d_in]")
    rank: int = Field(description="Inner dimension of B = B1·B2.")
    bits: int = Field(description="Bits of B's codes; 16 or 32 where B stayed floating point.")
    norm: float = Field(description="‖ΔW‖, Frobenius, of the adapter that was measured against.")
    spectral_norm: float = Field(default=0.0, description="‖ΔW‖₂, its largest singular value.")
    activation_norm: float | None = Field(
        default=None, description="√E‖ΔW·x‖²; null without calibration."
    )
    loss_norm: float | None = Field(default=None, description="√E(g·ΔW·x)²; see loss_error.")
    codes: int = Field(default=0, description="How many codes A and B have.")
    kept_float: bool = Field(description="Codes were asked for and would not have been smaller.")


class CodeHistogram(BaseModel):
    """Histogram of the codes of one kind in the whole adapter."""

    model_config = ConfigDict(frozen=True)

    kind: str = Field(description="int8, int4, int3 or int2; levels: of an entropy-coded file.")
    codes: list[int] = Field(
        description="Those that occur, in order; levels beyond ±32 count as ±32."
    )
    counts: list[int]


class CalibrationData(BaseModel):
    """Calibration data that activation errors are measured on."""

    model_config = ConfigDict(frozen=True)

    source: str | None = Field(description="The data's name.")
    tokens: int = Field(description="How many positions were seen.")
    gradients: bool = Field(description="Whether gradients of the loss were seen too.")
