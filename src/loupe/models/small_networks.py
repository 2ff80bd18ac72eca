"""Specs of the small convolutional networks, by function. Nothing here needs PyTorch."""

from loupe.config.network import CnnSpec, ConvBlock, Dense


def simple_cnn() -> CnnSpec:
    """Three 2x2 convolutions and one hidden layer of 500; 528,054 parameters at 32 px with 10 classes."""
    return CnnSpec(
        name="simple-cnn",
        blocks=(
            ConvBlock(filters=(16,), kernel_px=2),
            ConvBlock(filters=(32,), kernel_px=2),
            ConvBlock(filters=(64,), kernel_px=2, dropout=0.3),
        ),
        hidden=(Dense(units=500, dropout=0.4),),
    )


def deep_cnn() -> CnnSpec:
    """Six 3x3 convolutions, each followed by batch normalisation; 309,290 parameters at 32 px with 10 classes."""
    return CnnSpec(
        name="deep-cnn",
        blocks=tuple(
            ConvBlock(filters=(filters, filters), norm="each", dropout=dropout)
            for filters, dropout in ((32, 0.2), (64, 0.3), (128, 0.4))
        ),
    )


def catsdogs_cnn() -> CnnSpec:
    """Three 3x3 convolutions without padding and one hidden layer of 64, for photographs.

    At 150 px 1,212,513 parameters with one sigmoid output; as a softmax over two classes, the same function, 1,212,578.
    """
    return CnnSpec(
        name="catsdogs-cnn",
        blocks=tuple(ConvBlock(filters=(filters,), padding="valid") for filters in (32, 32, 64)),
        hidden=(Dense(units=64, dropout=0.5),),
    )


def lecture_cnn() -> CnnSpec:
    """Six 3x3 convolutions, none with an activation of its own; 558,186 parameters at 32 px with 10 classes."""
    return CnnSpec(
        name="lecture-cnn",
        blocks=tuple(ConvBlock(filters=(filters, filters), activation="none") for filters in (32, 64, 128)),
        hidden=(Dense(units=128), Dense(units=64)),
    )


def lecture_dropout() -> CnnSpec:
    """`lecture-cnn` with a wider third pair and dropout; 1,336,682 parameters at 32 px with 10 classes."""
    return CnnSpec(
        name="lecture-dropout",
        blocks=tuple(
            ConvBlock(filters=(filters, filters), activation="none", dropout=dropout)
            for filters, dropout in ((32, 0.2), (64, 0.2), (256, 0.0))
        ),
        hidden=(Dense(units=128, dropout=0.2), Dense(units=64, dropout=0.2)),
    )


def lecture_batchnorm() -> CnnSpec:
    """`lecture-dropout` with batch normalisation before each pool; 1,338,090 parameters at 32 px with 10 classes."""
    plain = lecture_dropout()
    blocks = tuple(block.model_copy(update={"norm": "block"}) for block in plain.blocks)
    return plain.model_copy(update={"name": "lecture-batchnorm", "blocks": blocks})


def project_cnn() -> CnnSpec:
    """Two 3x3 convolutions without padding, hidden layers of 256 and 512; 442,026 parameters at 32 px, 10 classes."""
    return _project("project-cnn", convolutions=2)


def project_cnn_one() -> CnnSpec:
    """`project-cnn` with one convolution, whose larger map makes 1,981,066 parameters at 32 px with 10 classes."""
    return _project("project-cnn-one", convolutions=1)


def _project(name: str, convolutions: int) -> CnnSpec:
    return CnnSpec(
        name=name,
        blocks=tuple(ConvBlock(filters=(32,), padding="valid") for _ in range(convolutions)),
        hidden=(Dense(units=256), Dense(units=512)),
        init="uniform",
    )


def digits_cnn() -> CnnSpec:
    """Two blocks for images of 8 px."""
    return CnnSpec(
        name="digits-cnn",
        blocks=(
            ConvBlock(filters=(32, 32), norm="each", dropout=0.1),
            ConvBlock(filters=(64, 64), norm="each", dropout=0.2),
        ),
        norm_momentum=0.1,
        init="he",
    )


def fast_cnn() -> CnnSpec:
    """Whitening and six 3x3 convolutions with GELU, for few epochs; 1,975,082 parameters with 10 classes.

    After Jordan 2024, arXiv:2404.00498.
    """
    return CnnSpec(
        name="fast-cnn",
        blocks=tuple(
            ConvBlock(filters=(filters, filters), activation="gelu", norm="each", norm_first=True, pool_after="first")
            for filters in (64, 256, 256)
        ),
        whitening_px=2,
        pooling="max",
        norm_momentum=0.4,
        init="identity",
    )


def photo_cnn() -> CnnSpec:
    """Five blocks with batch normalisation and global average pooling, for photographs of 96 px and more."""
    return CnnSpec(
        name="photo-cnn",
        blocks=tuple(ConvBlock(filters=(filters,), norm="each") for filters in (32, 64, 128, 256, 256)),
        pooling="average",
        hidden=(Dense(units=128, dropout=0.3),),
        norm_momentum=0.1,
        init="he",
    )
