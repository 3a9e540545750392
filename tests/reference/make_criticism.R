# Leverages, Cook's distances and studentised residuals by lme4, variance explained and inflation by performance, on lme4's data sets.
#
#   Rscript make_criticism.R > criticism.json
#
# The variance of counts and of a gamma response on the log scale is computed here from the null model by the formulas of Nakagawa,
# Johnson & Schielzeth (2017); what performance 0.10 takes for the mean leaves out the variance of the random effects.
suppressMessages({library(lme4); library(performance); library(insight); library(jsonlite)})
tight <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-10, maxfun = 1e5), calc.derivs = FALSE)
gtight <- glmerControl(optimizer = "bobyqa", tolPwrss = 1e-12, optCtrl = list(rhoend = 1e-9, maxfun = 1e5), calc.derivs = FALSE)
sleepstudy$w <- 1 + sleepstudy$Days / 3
sleepstudy$block <- factor(sleepstudy$Days %% 3)
sleepstudy$square <- sleepstudy$Days^2
grouseticks$cHEIGHT <- (grouseticks$HEIGHT - mean(grouseticks$HEIGHT)) / 100

sleep <- lmer(Reaction ~ Days + (Days | Subject), sleepstudy, control = tight)
linear <- list(
  sleep = sleep,
  sleep_weights = lmer(Reaction ~ Days + (1 | Subject), sleepstudy, weights = w, control = tight),
  penicillin = lmer(diameter ~ 1 + (1 | plate) + (1 | sample), Penicillin, control = tight),
  pastes = lmer(strength ~ 1 + (1 | batch / cask), Pastes, control = tight),
  cake = lmer(angle ~ recipe * temp + (1 | recipe:replicate), cake, control = tight)
)
out <- lapply(linear, function(m) list(theta = unname(getME(m, "theta")), hat = unname(hatvalues(m)), cook = unname(cooks.distance(m)),
                                     student = unname(rstudent(m))))

shares <- function(m) {
  r2 <- suppressWarnings(r2_nakagawa(m)); i <- suppressWarnings(icc(m))
  list(marginal = unname(r2$R2_marginal), conditional = unname(r2$R2_conditional), adjusted = i$ICC_adjusted, unadjusted = i$ICC_unadjusted)
}
herd <- function(link) glmer(cbind(incidence, size - incidence) ~ period + (1 | herd), cbpp, binomial(link), control = gtight)
out$shares <- lapply(list(sleep = sleep, penicillin = linear$penicillin, cake = linear$cake,
                          cbpp_logit = herd("logit"), cbpp_probit = herd("probit"), cbpp_cloglog = herd("cloglog")), shares)
i <- icc(linear$penicillin, by_group = TRUE)
out$by_group <- setNames(as.list(i$ICC), i$Group)

# null model -> mean -> squared coefficient of variation -> three approximations
random <- function(m) sum(sapply(VarCorr(m), function(v) v[1, 1]))
approximations <- function(full, null, cv2) {
  lambda <- exp(fixef(null)[[1]] + random(null) / 2)
  v <- cv2(lambda)
  fixed <- var(as.vector(getME(full, "X") %*% fixef(full)))
  d <- c(lognormal = log1p(v), delta = v, trigamma = trigamma(1 / v))
  lapply(as.list(d), function(s) list(marginal = fixed / (fixed + random(full) + s), conditional = (fixed + random(full)) / (fixed + random(full) + s)))
}
p1 <- glmer(TICKS ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | LOCATION), grouseticks, poisson, control = gtight)
p0 <- glmer(TICKS ~ 1 + (1 | BROOD) + (1 | LOCATION), grouseticks, poisson, control = gtight)
out$poisson <- approximations(p1, p0, function(lambda) 1 / lambda)

out$vif <- local({
  m <- lmer(Reaction ~ Days + square + block + (1 | Subject), sleepstudy, control = tight)
  v <- as.data.frame(suppressWarnings(check_collinearity(m)))
  setNames(as.list(v$VIF), v$Term)
})
cat(toJSON(out, digits = NA, na = "null", auto_unbox = TRUE), "\n")
