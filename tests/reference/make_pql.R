# Penalised quasi-likelihood by MASS::glmmPQL, iterated to its own convergence, and glmmTMB with a known residual sd.
#
#   python -c "import lmm; lmm.datasets.load('salamander').to_csv('salamander.csv', index=False)"
#   Rscript make_pql.R > pql.json
#
# glmmPQL stops when the squared change of the linear predictor is 1e-6 of its square; a fit is therefore restarted on its
# own working model until that changes nothing. The simulated counts are written out with the design of sleepstudy.
suppressMessages({library(MASS); library(nlme); library(lme4); library(glmmTMB); library(jsonlite)})

# glmmPQL's own loop (MASS 7.3) with a tolerance of 1e-14 in place of 1e-6
source_lines <- deparse(MASS::glmmPQL)
source_lines <- gsub("1e-06 * sum(eta^2)", "1e-16 * sum(eta^2)", source_lines, fixed = TRUE)
tight <- eval(parse(text = paste(source_lines, collapse = "\n")), envir = asNamespace("MASS"))

set.seed(20240501)
sleep <- sleepstudy
sleep$Subject <- factor(as.character(sleep$Subject))
G <- 0.1 * matrix(c(1, 0.25, 0.25, 1), 2)
b <- mvrnorm(nlevels(sleep$Subject), c(0, 0), G)
i <- as.integer(sleep$Subject)
sleep$count <- rpois(nrow(sleep), exp(0.25 + 0.5 * sleep$Days + b[i, 1] + b[i, 2] * sleep$Days))

# schools of classes, success of a pupil: nested, binary
nested <- expand.grid(pupil = 1:8, class = 1:4, school = 1:15)
nested$x <- round(rnorm(nrow(nested)), 3)
nested$class <- factor(paste(nested$school, nested$class, sep = "."))
nested$school <- factor(nested$school)
u <- rnorm(nlevels(nested$school)); v <- 0.7 * rnorm(nlevels(nested$class))
nested$y <- rbinom(nrow(nested), 1, plogis(0.3 + 0.8 * nested$x + u[as.integer(nested$school)] + v[as.integer(nested$class)]))

salamander <- read.csv("salamander.csv", stringsAsFactors = TRUE)
salamander$one <- factor(1)
cbpp$prop <- cbpp$incidence / cbpp$size
gammas <- sleepstudy; gammas$Rt <- gammas$Reaction / 100

control <- lmeControl(tolerance = 1e-12, msTol = 1e-12, msMaxIter = 500, maxIter = 500, opt = "nlminb", returnObject = TRUE)
pql <- function(fixed, random, family, data, sds) {
  environment(fixed) <- globalenv()
  f <- suppressWarnings(tight(fixed, random = random, family = family, data = data, niter = 500, verbose = FALSE, control = control))
  list(fixef = unname(fixef(f)), sds = sds(f), sigma = f$sigma)
}
plain <- function(f) unname(sqrt(diag(as.matrix(getVarCov(f)))))
slopes <- function(f) { V <- as.matrix(getVarCov(f)); unname(c(sqrt(diag(V)), cov2cor(V)[1, 2])) }
from <- function(f) as.numeric(VarCorr(f)[grepl("Intercept", rownames(VarCorr(f))), "StdDev"])
crossed <- function(f) unname(c(sqrt(diag(as.matrix(f$modelStruct$reStruct[[1]])))[c(1, 61)]) * f$sigma)

# glmmPQL cannot say crossed factors, so its loop by hand around an lme() that can
by_hand <- function() {
  d <- salamander
  d$Female <- factor(d$Female); d$Male <- factor(d$Male)
  g <- glm(Mate ~ 0 + Cross, binomial, d)
  eta <- g$linear.predictors
  repeat {
    mu <- plogis(eta); w <- mu * (1 - mu)
    d$z <- eta + (as.numeric(d$Mate == levels(factor(d$Mate))[2]) - mu) / w; d$invwt <- 1 / w
    f <- lme(z ~ 0 + Cross, random = list(one = pdBlocked(list(pdIdent(~ Female - 1), pdIdent(~ Male - 1)))), data = d, method = "ML",
             weights = varFixed(~ invwt), control = control)
    new <- as.numeric(fitted(f))
    if (sum((new - eta)^2) < 1e-12 * sum(eta^2)) break
    eta <- new
  }
  list(fixef = unname(fixef(f)), sds = crossed(f), sigma = f$sigma)
}

out <- list(
  cbpp = pql(prop ~ period, ~ 1 | herd, binomial, transform(cbpp, w = size), plain),
  count_slopes = pql(count ~ Days, ~ Days | Subject, poisson, sleep, slopes),
  count_intercepts = pql(count ~ Days, ~ 1 | Subject, poisson, sleep, plain),
  nested = pql(y ~ x, list(school = ~ 1, class = ~ 1), binomial, nested, from),
  salamander = by_hand(),
  gamma = pql(Rt ~ Days, ~ 1 | Subject, Gamma(link = "log"), gammas, plain)
)
w <- tight(cbind(incidence, size - incidence) ~ period, random = ~ 1 | herd, family = binomial, data = cbpp, niter = 500, verbose = FALSE,
           control = control)
out$cbpp <- list(fixef = unname(fixef(w)), sds = plain(w), sigma = w$sigma)

# betad is the log of the residual variance
known <- function(reml, s) {
  f <- glmmTMB(Reaction ~ Days + (Days | Subject), data = sleepstudy, REML = reml, start = list(betad = 2 * log(s)),
               map = list(betad = factor(NA)), control = glmmTMBControl(optCtrl = list(rel.tol = 1e-14, iter.max = 1000, eval.max = 1000)))
  V <- VarCorr(f)$cond$Subject
  list(fixef = unname(fixef(f)$cond), sds = unname(c(attr(V, "stddev"), attr(V, "correlation")[1, 2])), sigma = sigma(f),
       llf = as.numeric(logLik(f)))
}
out$known_reml <- known(TRUE, 20); out$known_ml <- known(FALSE, 24)
out$data <- list(sleep = sleep[c("Days", "Subject", "count")], nested = nested[c("y", "x", "class", "school")])
cat(toJSON(out, digits = 12, auto_unbox = TRUE, dataframe = "columns"), "\n")
