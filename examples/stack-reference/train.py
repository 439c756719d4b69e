"""Script of the job: a small fit, logged. MLflow's client finds the server in the environment."""

import mlflow
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge

mlflow.set_experiment("stack-reference")
data, target = load_diabetes(return_X_y=True)
with mlflow.start_run(run_name="in the cluster"):
    model = Ridge(alpha=0.1).fit(data, target)
    mlflow.log_param("alpha", model.alpha)
    mlflow.log_metric("r2", model.score(data, target))
    mlflow.log_dict({"coefficients": model.coef_.tolist()}, "model.json")
