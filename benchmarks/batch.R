# The responses of batch.py fitted one by one in R: Rscript batch.R FOLDER. Prints "TASK <tab> name <tab> seconds" for those in the files.
suppressMessages(library(lme4))
folder <- commandArgs(TRUE)[1]
names <- read.csv(file.path(folder, "tasks.csv"))$name
table <- function(i) read.csv(file.path(folder, paste0("task", i, ".csv")), stringsAsFactors = TRUE)
timed <- function(i, one) {
  data <- table(i)
  responses <- grep("^y[0-9]+$", colnames(data), value = TRUE)
  predictors <- data[setdiff(colnames(data), responses)]
  s <- system.time(suppressWarnings(suppressMessages(for (name in responses) one(predictors, data[[name]]))))[["elapsed"]]
  cat("TASK", names[i], s, sep = "\t"); cat("\n")
}
slope <- y ~ x + z1 + z2 + (x | g)
items <- y ~ x + z1 + z2 + (1 | g) + (1 | h)
counts <- y ~ x + z1 + z2 + (1 | g)
first <- function(formula, i) { d <- table(i); d$y <- d$y1; lmer(formula, d) }
fit <- first(slope, 1)
timed(1, function(d, y) refit(fit, y))
timed(2, function(d, y) { d$y <- y; lmer(slope, d) })
both <- first(items, 3)
timed(3, function(d, y) refit(both, y))
timed(4, function(d, y) { d$y <- y; glmer(counts, d, family = poisson) })
timed(5, function(d, y) { d$y <- y; vcov(glmer(counts, d, family = poisson)) })
timed(6, function(d, y) { d$y <- y; glmer(slope, d, family = binomial) })
