# What follows a fit, timed in R: Rscript after.R FOLDER. Prints "TASK <tab> name <tab> seconds"; the names are those of after.py.
suppressMessages({library(lme4); library(lmerTest); library(pbkrtest)})
folder <- commandArgs(TRUE)[1]
timed <- function(name, expr, times = 1) {
  s <- system.time(suppressWarnings(suppressMessages(force(expr))))[["elapsed"]]
  cat("TASK", name, s * times, sep = "\t"); cat("\n")
}
sleep <- lme4::lmer(Reaction ~ Days + (Days | Subject), sleepstudy)
both <- function(m) c(fixef(m), as.data.frame(VarCorr(m))$sdcor)
timed("sleepstudy, 1,000 parametric bootstrap refits", bootMer(sleep, both, nsim = 100, seed = 1), 10)
many <- read.csv(file.path(folder, "many_rows.csv"))
fit <- lme4::lmer(y ~ x + z1 + z2 + (x | g), many)
Y <- simulate(fit, nsim = 100, seed = 1)
timed("10,000 responses of 1,000 rows, random slope, 50 groups", for (i in seq_len(100)) refit(fit, Y[[i]]), 100)
ml <- lme4::lmer(Reaction ~ Days + (Days | Subject), sleepstudy, REML = FALSE)
timed("sleepstudy, profile of all parameters", profile(ml))
timed("sleepstudy, influence of each of 180 rows", influence(sleep))
tested <- lmerTest::as_lmerModLmerTest(sleep)
timed("sleepstudy, Satterthwaite's table", summary(lmerTest::as_lmerModLmerTest(sleep)))
cbpp_fit <- glmer(cbind(incidence, size - incidence) ~ period + (1 | herd), cbpp, family = binomial)
timed("cbpp, binomial, profile of all parameters", profile(cbpp_fit))
timed("cbpp, binomial, 100 bootstrap refits", bootMer(cbpp_fit, fixef, nsim = 20, seed = 1), 5)
inst <- lme4::lmer(y ~ service + (1 | s) + (1 | d) + (1 | dept), InstEval, control = lmerControl(calc.derivs = FALSE))
timed("InstEval, 73,421 rows, Satterthwaite's table", summary(lmerTest::as_lmerModLmerTest(inst)))
ten <- read.csv(file.path(folder, "ten_thousand.csv"), stringsAsFactors = TRUE)
# pbkrtest forms matrices of 10,000 x 10,000, some dozens of them: it is left out where there is no room
free <- as.numeric(strsplit(grep("MemAvailable", readLines("/proc/meminfo"), value = TRUE), " +")[[1]][2]) / 2^20
if (free > 60) {
  kr <- lmerTest::lmer(y ~ x + (x | g) + (1 | h), ten)
  timed("10,000 rows, 500 groups with slopes x 40 items, Kenward-Roger's table", summary(kr, ddf = "Kenward-Roger"))
}
