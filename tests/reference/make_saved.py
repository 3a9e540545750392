"""Files of fits as version 0 wrote them before terms had a module of their own: commit add64bb, run once and not again."""

import sys
from pathlib import Path

import lmm

folder = Path(sys.argv[1])
sleepstudy, cbpp = lmm.datasets.load("sleepstudy"), lmm.datasets.load("cbpp")
linear, counts = "Reaction ~ Days + (1|Subject) + (0+Days|Subject)", "incidence ~ size + (1|herd)"
lmm.lmer(linear, sleepstudy).save(folder / "lmer.lmm")
lmm.glmer("cbind(incidence, size - incidence) ~ period + (1|herd)", cbpp, family="binomial").save(folder / "glmer.lmm")
sleepstudy.to_parquet(folder / "sleepstudy.parquet")
cbpp.to_parquet(folder / "cbpp.parquet")
lmm.lmer(linear, folder / "sleepstudy.parquet").save(folder / "stream.lmm")
lmm.glmer(counts, folder / "cbpp.parquet", family="poisson").save(folder / "gstream.lmm")
Y = {"a": sleepstudy.Reaction, "b": sleepstudy.Reaction * 2 + sleepstudy.Days}
lmm.lmer_batch("~ Days + (Days|Subject)", sleepstudy, Y).save(folder / "batch.lmm")
