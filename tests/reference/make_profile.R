# Profile likelihood intervals by lme4, maximum likelihood fits as tight as its optimiser goes.
#
#   Rscript make_profile.R > profile.json
#
# The data are lme4's and nlme's own; what is thinned or weighted is so by row number, in the same way in test_profile.py.
suppressMessages({library(lme4); library(jsonlite)})
data("sleepstudy"); data("Pastes"); data("Penicillin"); data("Dyestuff2"); data("cbpp"); data("grouseticks"); data("cake")
Oats <- as.data.frame(nlme::Oats); Oats$Block <- factor(as.character(Oats$Block)); Machines <- as.data.frame(nlme::Machines)
thin <- function(d, by) d[seq_len(nrow(d)) %% by != 0, ]
sleep_unbalanced <- thin(subset(sleepstudy, !(Subject %in% c("308", "309") & Days > 3)), 7)
sleepstudy$w <- 0.5 + (seq_len(nrow(sleepstudy)) %% 5) / 4
grouseticks$cHEIGHT <- (grouseticks$HEIGHT - mean(grouseticks$HEIGHT)) / 100
linear <- function(formula, data, weights = NULL) list(formula = formula, data = data, weights = weights)
counts <- function(formula, data, family) list(formula = formula, data = data, family = family)
cases <- list(
  sleep_unbalanced = linear("Reaction ~ Days + (Days|Subject)", "sleep_unbalanced"),
  sleep_uncorrelated = linear("Reaction ~ Days + (Days||Subject)", "sleepstudy"),
  sleep_weights = linear("Reaction ~ Days + (Days|Subject)", "sleepstudy", "w"),
  pastes = linear("strength ~ 1 + (1|batch/cask)", "Pastes"),
  penicillin = linear("diameter ~ 1 + (1|plate) + (1|sample)", "Penicillin"),
  dyestuff2 = linear("Yield ~ 1 + (1|Batch)", "Dyestuff2"),
  split_plot = linear("yield ~ nitro + Variety + (1|Block/Variety)", "Oats"),
  cake = linear("angle ~ recipe + temp + (1|recipe:replicate)", "cake"),
  cbpp = counts("cbind(incidence, size - incidence) ~ period + (1|herd)", "cbpp", "binomial"),
  ticks = counts("TICKS ~ YEAR + cHEIGHT + (1|BROOD)", "grouseticks", "poisson"))
out <- lapply(cases, function(s) {
  d <- get(s$data)
  f <- as.formula(s$formula)
  m <- if (is.null(s$family)) {
    tight <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-9, maxfun = 1e5))
    if (is.null(s$weights)) lmer(f, d, REML = FALSE, control = tight) else lmer(f, d, REML = FALSE, weights = w, control = tight)
  } else {
    glmer(f, d, family = s$family, control = glmerControl(optimizer = "bobyqa", tolPwrss = 1e-12, optCtrl = list(rhoend = 1e-8, maxfun = 1e5)))
  }
  p <- profile(m, signames = FALSE)
  ci <- confint(p, level = 0.95)
  if (!is.null(s$weights)) {  # lme4's profiles of coefficients leave the weights out: refit with the column as an offset instead
    X <- getME(m, "X"); d0 <- -2 * as.numeric(logLik(m))
    bars <- paste0("(", sapply(lme4::findbars(f), deparse), ")", collapse = " + ")
    for (j in colnames(X)) {
      rest <- X[, setdiff(colnames(X), j), drop = FALSE]
      height <- function(v) {
        e <- d; e$y <- e[[all.vars(f)[1]]] - X[, j] * v; e$rest <- rest
        -2 * as.numeric(logLik(lmer(as.formula(paste("y ~ 0 + rest +", bars)), e, REML = FALSE, weights = w, control = tight))) - d0
      }
      at <- fixef(m)[[j]]; se <- sqrt(diag(vcov(m)))[[j]]
      limit <- function(sign) uniroot(function(v) height(v) - qchisq(0.95, 1), at + sign * se * c(1, 4), tol = 1e-8)$root
      ci[j, ] <- c(limit(-1), limit(1))
    }
  }
  list(formula = s$formula, rows = rownames(ci), ci = unname(ci), deviance = -2 * as.numeric(logLik(m)))
})
cat(toJSON(list(R = as.character(getRversion()), lme4 = as.character(packageVersion("lme4")), cases = out), digits = 10, auto_unbox = TRUE, pretty = FALSE), "\n")
