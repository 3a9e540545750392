# Average predictions, comparisons and slopes without random effects by the delta method on fits by lme4 and ordinal.
#
#   Rscript make_marginal_effects.R > marginal_effects.json          (reads unbalanced.csv, which make_emmeans.R writes)
#
# R's marginaleffects is not needed: f(beta) is written out with model.matrix and differentiated by numDeriv.
suppressMessages({library(lme4); library(ordinal); library(numDeriv); library(jsonlite)})
tight <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-10, maxfun = 1e5))
gtight <- glmerControl(optimizer = "bobyqa", tolPwrss = 1e-13, optCtrl = list(rhoend = 1e-10, maxfun = 1e5))
d <- read.csv("unbalanced.csv", stringsAsFactors = TRUE)
d$g <- factor(d$g)
d$rating <- cut(d$y, c(-Inf, 1, 2.2, 3.4, Inf), labels = c("1", "2", "3", "4"), ordered_result = TRUE)

models <- list(
  lmm = list(fit = lmer(y ~ a * x + b + (1 | g), d, control = tight), fixed = y ~ a * x + b),
  transformed = list(fit = lmer(y ~ a + poly(x, 2) + log(e) + (1 | g), d, control = tight), fixed = y ~ a + poly(x, 2) + log(e)),
  weighted = list(fit = lmer(y ~ a * b + x + (1 | g), d, weights = w, control = tight), fixed = y ~ a * b + x),
  binomial = list(fit = glmer(cbind(s, k - s) ~ a * b + x + (1 | g), d, binomial, control = gtight), fixed = y ~ a * b + x, inverse = plogis),
  probit = list(fit = glmer(cbind(s, k - s) ~ a + x + z + (1 | g), d, binomial("probit"), control = gtight), fixed = y ~ a + x + z, inverse = pnorm),
  poisson = list(fit = glmer(count ~ a + x + offset(log(e)) + (1 | g), d, poisson, control = gtight), fixed = y ~ a + x, inverse = exp,
                 offset = function(rows) log(rows$e)))
delta <- function(f, beta, V) {
  J <- jacobian(f, beta)
  list(estimate = as.numeric(f(beta)), std_error = sqrt(pmax(0, rowSums((J %*% V) * J))))
}
out <- lapply(models, function(m) {
  terms <- delete.response(terms(lm(m$fixed, d)))  # remembers the polynomials
  inverse <- if (is.null(m$inverse)) identity else m$inverse
  mean_of <- function(rows, type = "response") {
    X <- model.matrix(terms, rows)
    o <- if (is.null(m$offset)) 0 else m$offset(rows)
    function(beta) { eta <- as.numeric(X %*% beta) + o; if (type == "link") eta else inverse(eta) }
  }
  beta <- fixef(m$fit)
  V <- as.matrix(vcov(m$fit))
  with_a <- function(level) { rows <- d; rows$a <- factor(level, levels = levels(d$a)); mean_of(rows) }
  shifted <- function(h, type = "response") { rows <- d; rows$x <- rows$x + h; mean_of(rows, type) }
  by_a <- function(v) as.numeric(tapply(v, d$a, mean))
  p <- mean_of(d); eps <- 1e-4
  lo <- with_a("p"); hi <- lapply(c("q", "r"), with_a)
  up <- shifted(.5); down <- shifted(-.5); u <- shifted(eps / 2); v <- shifted(-eps / 2)
  list(
    predictions = delta(function(b) p(b)[1:5], beta, V),
    link = delta(function(b) mean_of(d, "link")(b)[1:5], beta, V),
    avg_predictions = delta(function(b) mean(p(b)), beta, V),
    avg_predictions_by = delta(function(b) by_a(p(b)), beta, V),
    avg_comparisons_factor = delta(function(b) sapply(hi, function(f) mean(f(b) - lo(b))), beta, V),
    avg_comparisons_ratio = delta(function(b) sapply(hi, function(f) mean(f(b)) / mean(lo(b))), beta, V),
    comparisons_number = delta(function(b) (up(b) - down(b))[1:5], beta, V),
    avg_comparisons_number = delta(function(b) mean(up(b) - down(b)), beta, V),
    avg_slopes = delta(function(b) mean((u(b) - v(b)) / eps), beta, V),
    avg_slopes_by = delta(function(b) by_a((u(b) - v(b)) / eps), beta, V))
})
m <- clmm(rating ~ a + x + (1 | g), d, Hess = TRUE, control = clmm.control(gradTol = 1e-8))
X <- model.matrix(~ a + x, d)[, -1]
coefs <- coef(m)  # thresholds first
P <- function(b) { F <- sapply(b[1:3], function(t) plogis(t - as.numeric(X %*% b[-(1:3)]))); cbind(F, 1) - cbind(0, F) }
V <- vcov(m)[seq_along(coefs), seq_along(coefs)]
out$ordinal <- list(avg_predictions = delta(function(b) colMeans(P(b)), coefs, V))
cat(toJSON(out, auto_unbox = TRUE, digits = NA))
