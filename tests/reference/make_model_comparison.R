# Comparisons of models by lme4 and lmerTest: anova(), drop1(), ranova() and step().
#
#   Rscript make_model_comparison.R > model_comparison.json
#
# The data sets are lme4's own. Fits are as tight as the optimiser goes.
suppressMessages({library(lme4); library(lmerTest); library(jsonlite)})
tight <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-10, maxfun = 1e5), calc.derivs = FALSE)
gtight <- glmerControl(optimizer = "bobyqa", tolPwrss = 1e-12, optCtrl = list(rhoend = 1e-9, maxfun = 1e5), calc.derivs = FALSE)
sleepstudy$block <- factor(sleepstudy$Days %% 3)
sleepstudy$square <- sleepstudy$Days^2
grouseticks$cHEIGHT <- (grouseticks$HEIGHT - mean(grouseticks$HEIGHT)) / 100
penicillin <- Penicillin

# calls that can be repeated from anywhere: update() evaluates them
l <- function(f, data, REML = TRUE) suppressWarnings(eval(bquote(
  lmerTest::lmer(.(as.formula(f, globalenv())), .(substitute(data)), REML = .(REML), control = tight)), globalenv()))
g <- function(f, data, family) suppressWarnings(eval(bquote(
  glmer(.(as.formula(f, globalenv())), .(substitute(data)), family = .(substitute(family)), control = gtight)), globalenv()))
table <- function(t) list(rows = rownames(t), cols = colnames(t), values = unname(as.matrix(as.data.frame(t))))
quiet <- function(x) suppressMessages(suppressWarnings(x))

out <- list()
# -- anova
m1 <- l("Reaction ~ Days + (Days | Subject)", sleepstudy)
m2 <- l("Reaction ~ Days + (1 | Subject)", sleepstudy)
m3 <- l("Reaction ~ 1 + (1 | Subject)", sleepstudy)
out$anova_sleep <- table(quiet(anova(m1, m2, m3)))
out$anova_sleep_reml <- table(quiet(anova(m1, m2, refit = FALSE)))
h1 <- g("cbind(incidence, size - incidence) ~ period + (1 | herd)", cbpp, binomial)
h2 <- g("cbind(incidence, size - incidence) ~ 1 + (1 | herd)", cbpp, binomial)
out$anova_cbpp <- table(anova(h1, h2))

# -- drop1
out$drop1_cake <- table(quiet(drop1(l("angle ~ recipe * temp + (1 | recipe:replicate)", cake), test = "Chisq", ddf = "lme4")))
out$drop1_cake_main <- table(quiet(drop1(l("angle ~ recipe + temp + (1 | recipe:replicate)", cake), test = "Chisq", ddf = "lme4")))
out$drop1_grouse <- table(quiet(drop1(g("TICKS ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | LOCATION)", grouseticks, poisson), test = "Chisq")))
for (ddf in c("Satterthwaite", "Kenward-Roger")) {
  out[[paste0("drop1_f_cake_", ddf)]] <- table(drop1(l("angle ~ recipe + temp + (1 | recipe:replicate)", cake), ddf = ddf))
  out[[paste0("drop1_f_sleep_", ddf)]] <- table(drop1(l("Reaction ~ block * Days + (Days | Subject)", sleepstudy), ddf = ddf))
}

# -- ranova
ran <- function(m, ...) table(quiet(ranova(m, ...)))
out$ranova_sleep <- ran(l("Reaction ~ Days + (Days | Subject)", sleepstudy))
out$ranova_sleep_whole <- ran(l("Reaction ~ Days + (Days | Subject)", sleepstudy), reduce.terms = FALSE)
out$ranova_sleep_independent <- ran(l("Reaction ~ Days + (Days || Subject)", sleepstudy))
out$ranova_sleep_square <- ran(l("Reaction ~ Days + (Days + square | Subject)", sleepstudy))
out$ranova_sleep_block <- ran(l("Reaction ~ Days + (block | Subject)", sleepstudy))
out$ranova_sleep_no_intercept <- ran(l("Reaction ~ Days + (0 + block | Subject)", sleepstudy))
out$ranova_sleep_last <- ran(l("Reaction ~ Days + (1 | Subject)", sleepstudy))
out$ranova_pastes <- ran(l("strength ~ 1 + (1 | batch / cask)", Pastes))
out$ranova_penicillin <- ran(l("diameter ~ 1 + (1 | plate) + (1 | sample)", penicillin))
m <- l("Reaction ~ Days + (1 | Subject)", sleepstudy, REML = FALSE)
out$ranova_sleep_ml <- table(quiet(ranova(m)))
out$ranova_sleep_weights <- {
  sleepstudy$w <- 1 + sleepstudy$Days / 3
  table(quiet(ranova(suppressWarnings(lmerTest::lmer(Reaction ~ Days + (1 | Subject), sleepstudy, weights = w, control = tight)))))
}

# -- step
s <- quiet(step(l("Reaction ~ block * Days + (Days || Subject)", sleepstudy)))
out$step_sleep <- list(random = table(s$random), fixed = table(s$fixed), formula = paste(deparse(formula(attr(s, "model"))), collapse = ""))
s <- quiet(step(l("angle ~ recipe * temperature + (1 | recipe:replicate) + (1 | replicate)", cake)))
out$step_cake <- list(random = table(s$random), fixed = table(s$fixed), formula = paste(deparse(formula(attr(s, "model"))), collapse = ""))

# -- log-likelihoods without random effects
gl <- function(m) as.numeric(logLik(m))
cbpp$p <- cbpp$incidence / cbpp$size
out$without <- list(
  binomial = gl(glm(cbind(incidence, size - incidence) ~ period, binomial, cbpp)),
  poisson = gl(glm(TICKS ~ YEAR + cHEIGHT, poisson, grouseticks)),
  negative_binomial = gl(MASS::glm.nb(TICKS ~ YEAR + cHEIGHT, grouseticks, control = glm.control(epsilon = 1e-12, maxit = 100))),
  linear_reml = as.numeric(logLik(lm(Reaction ~ Days, sleepstudy), REML = TRUE)),
  linear_ml = gl(lm(Reaction ~ Days, sleepstudy))
)
cat(toJSON(out, digits = NA, na = "null", auto_unbox = TRUE, pretty = TRUE), "\n")
