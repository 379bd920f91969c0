"""`lepton search`: search for the best float net within the limits."""

from __future__ import annotations

from lepton_automl import api
from lepton_automl.cli import options as o


def search(
    data: o.Data,
    test: o.Test = None,
    out: o.Out = None,
    space: o.Space = None,
    budget: o.Budget = None,
    trials: o.Trials = None,
    max_latency_ms: o.MaxLatency = None,
    max_size_kb: o.MaxSize = None,
    max_flash_kb: o.MaxFlash = None,
    max_macs: o.MaxMacs = None,
    max_ram_kb: o.MaxRam = None,
    min_accuracy: o.MinAccuracy = None,
    max_drop: o.MaxDrop = None,
    per_class_max_drop: o.MaxClassDrop = None,
    board: o.BoardName = None,
    objective: o.Objective = "accuracy,latency_ms,size_bytes",
    prefer: o.PreferName = "size",
    target: o.TargetName = "x86-any",
    latency_from: o.LatencyFrom = None,
    seed: o.Seed = 0,
    sampler: o.Sampler = "lepton",
    warm_start: o.WarmStart = None,
    skip_corrupt: o.SkipCorrupt = False,
    group: o.Group = None,
    time: o.Time = None,
    parts: o.Parts = None,
    columns: o.Columns = None,
    root: o.Root = None,
    channel_axis: o.ChannelAxisName = "auto",
    window: o.Window = None,
    stride: o.Stride = None,
    rate: o.Rate = None,
    mels: o.Mels = None,
    band_mean: o.BandMeanName = "auto",
    flip: o.FlipName = "auto",
    refit: o.RefitName = "auto",
    temperature: o.TemperatureName = "auto",
    judge: o.JudgeName = "auto",
    folds: o.FoldsText = "auto",
    balance: o.BalanceName = "auto",
    channels: o.ChannelsName = "auto",
    pixel_scale: o.PixelScaleText = "auto",
    input_type: o.InputTypeName = "auto",
    rehash: o.Rehash = False,
    fresh: o.Fresh = False,
    store: o.StoreUrl = None,
    take_over: o.TakeOver = False,
    jobs: o.Jobs = None,
    hosts: o.Hosts = None,
    cluster: o.Cluster = None,
    max_memory: o.MaxMemory = None,
    jobs_per_gpu: o.JobsPerGpu = None,
    final_jobs: o.FinalJobs = 1,
    device: o.Device = "auto",
    optuna_storage: o.OptunaStorage = None,
    callback: o.Callbacks = None,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    json: o.Json = False,
) -> None:
    """Search only; save the best float net in RUN/models/best.

    The same command continues a stopped search; with a larger --budget or --trials it extends a
    finished one.
    """
    settings = o.settings({k: v for k, v in locals().items() if k != "data"})
    from lepton_automl.cli import report
    from lepton_automl.cli.report import progress  # rich is slow to import; --help must not wait

    with progress.screen(quiet=quiet, verbose=verbose) as emit:
        result = api.search(data, emit=emit, **settings)
    report.show_search(result, json=json)
