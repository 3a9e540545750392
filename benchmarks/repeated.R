# Repeated measures, timed in R: Rscript repeated.R FOLDER. Prints "TASK <tab> name <tab> seconds"; the names are those of repeated.py.
suppressMessages({library(nlme); library(glmmTMB)})
folder <- commandArgs(TRUE)[1]
timed <- function(name, expr) {
  s <- system.time(suppressWarnings(suppressMessages(force(expr))))[["elapsed"]]
  cat("TASK", name, s, sep = "\t"); cat("\n")
}
fev <- read.csv(file.path(folder, "fev.csv"), stringsAsFactors = TRUE)
trial <- read.csv(file.path(folder, "trial.csv"), stringsAsFactors = TRUE)
F <- FEV1 ~ RACE + SEX + ARMCD * AVISIT
Y <- y ~ base + arm * visit
het <- function(v) varIdent(form = as.formula(paste("~ 1 |", v)))
for (i in 1:2) { # the second is warm
  timed("fev, 537 rows, unstructured, gls", gls(F, fev, corSymm(form = ~ as.integer(AVISIT) | USUBJID), het("AVISIT")))
  timed("fev, 537 rows, ar1h, gls", gls(F, fev, corAR1(form = ~ as.integer(AVISIT) | USUBJID), het("AVISIT")))
  timed("fev, 537 rows, unstructured, glmmTMB", glmmTMB(update(F, ~ . + us(0 + AVISIT | USUBJID)), fev, dispformula = ~ 0, REML = TRUE))
}
timed("trial, 1,000 subjects x 10 visits, ar1, gls", gls(Y, trial, corAR1(form = ~ as.integer(visit) | id)))
timed("trial, 1,000 subjects x 10 visits, unstructured, glmmTMB", glmmTMB(update(Y, ~ . + us(0 + visit | id)), trial, dispformula = ~ 0, REML = TRUE))
timed("trial, 1,000 subjects x 10 visits, unstructured, gls", gls(Y, trial, corSymm(form = ~ as.integer(visit) | id), het("visit")))
