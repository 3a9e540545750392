# Predictions by lme4 and their standard errors from Henderson's equations, inverted whole.
#
#   Rscript make_prediction.R > prediction.json          (reads unbalanced.csv, which make_emmeans.R writes)
#
# This version of lme4 has no predict(se.fit = TRUE). Of a generalized model the equations are those of the working linear model.
suppressMessages({library(lme4); library(jsonlite)})
tight <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-10, maxfun = 1e5))
gtight <- glmerControl(optimizer = "bobyqa", tolPwrss = 1e-13, optCtrl = list(rhoend = 1e-10, maxfun = 1e5))
d <- read.csv("unbalanced.csv", stringsAsFactors = TRUE)
d$g <- factor(d$g)

henderson <- function(m) {
  X <- getME(m, "X"); Z <- as.matrix(getME(m, "Z")); L <- as.matrix(getME(m, "Lambda"))
  linear <- isLMM(m)
  w <- if (linear) weights(m) else m@resp$sqrtWrkWt()^2
  M <- cbind(X, Z)
  H <- crossprod(M * sqrt(w))
  q <- ncol(X) + seq_len(ncol(Z))
  H[q, q] <- H[q, q] + solve(tcrossprod(L))
  solve(H) * if (linear) sigma(m)^2 else 1
}
case <- function(m, newdata, new = integer(0), terms = NULL) {
  C <- henderson(m)
  type <- "link"
  V <- as.matrix(vcov(m))
  tt <- delete.response(terms(m))
  X <- model.matrix(tt, newdata, xlev = lapply(Filter(is.factor, model.frame(m)), levels))
  flist <- getME(m, "flist"); cn <- getME(m, "cnms")
  Z <- matrix(0, nrow(newdata), ncol(getME(m, "Z")))
  extra <- numeric(nrow(newdata)); at <- 0
  G <- VarCorr(m)
  for (t in seq_along(cn)) {
    group <- names(cn)[t]
    factors <- strsplit(group, ":")[[1]]
    codes <- match(do.call(paste, c(lapply(factors, function(f) as.character(newdata[[f]])), sep = ":")), levels(flist[[group]]))
    z <- sapply(cn[[t]], function(name) if (name == "(Intercept)") rep(1, nrow(newdata)) else newdata[[name]])
    z <- matrix(z, nrow(newdata))
    for (i in seq_len(nrow(newdata)))
      if (is.na(codes[i])) extra[i] <- extra[i] + z[i, ] %*% as.matrix(G[[t]]) %*% z[i, ]
      else Z[i, at + (codes[i] - 1) * ncol(z) + seq_len(ncol(z))] <- z[i, ]
    at <- at + nlevels(flist[[group]]) * ncol(z)
  }
  M <- cbind(X, Z)
  out <- list(link = predict(m, newdata, type = type, allow.new.levels = TRUE), population = predict(m, newdata, re.form = NA, type = type),
              se = sqrt(rowSums((M %*% C) * M) + extra), population_se = sqrt(rowSums((X %*% V) * X)))
  if (!isLMM(m)) out$response <- predict(m, newdata, type = "response", allow.new.levels = TRUE)
  if (!is.null(terms)) out$some <- predict(m, newdata, re.form = terms, type = type, allow.new.levels = TRUE)
  c(list(newdata = newdata), lapply(out, as.numeric))
}
sleep <- data.frame(Days = c(0, 5, 9, 12), Subject = c("308", "309", "999", "372"))
days <- data.frame(Days = c(0, 3.5, 9), Subject = c("310", "372", "1"))
casks <- data.frame(batch = c("A", "B", "J", "Z"), cask = c("a", "c", "b", "a"))
herds <- data.frame(period = c("1", "2", "3", "4"), herd = c("1", "2", "3", "99"))
rows <- data.frame(d[c(1, 20, 77), c("a", "b", "x", "e")], g = c("1", "7", "40"))
sleepstudy$w <- rep(c(1, 2, .5, 1.5), 45)
data(Pastes)
out <- list(
  sleep = case(lmer(Reaction ~ Days + (Days | Subject), sleepstudy, control = tight), sleep, terms = ~ (1 | Subject)),
  weighted = case(lmer(Reaction ~ Days + (Days | Subject), sleepstudy, weights = w, control = tight), days),
  pastes = case(lmer(strength ~ 1 + (1 | batch/cask), Pastes, control = tight), casks, terms = ~ (1 | batch)),
  cbpp = case(glmer(cbind(incidence, size - incidence) ~ period + (1 | herd), cbpp, binomial, control = gtight), herds),
  counts = case(glmer(count ~ a * b + x + (1 | g), d, poisson, control = gtight), rows)
)
cat(toJSON(out, auto_unbox = TRUE, digits = NA))
