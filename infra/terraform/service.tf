# A long-lived container for what a gateway cannot carry: native gRPC and streams. It serves; the compactor function
# compacts. One load balancer ends TLS and speaks gRPC to it.
locals {
  service = var.service == null ? [] : [var.service]
}

resource "aws_ecs_cluster" "service" {
  #checkov:skip=CKV_AWS_65:The server's own metrics are at /metrics; Container Insights is paid by the metric
  count = length(local.service)
  name  = var.name
  tags  = var.tags
}

resource "aws_cloudwatch_log_group" "service" {
  #checkov:skip=CKV_AWS_338:Retention is log_days; a year of request logs is the account's to want
  count             = length(local.service)
  name              = "/aws/ecs/${var.name}"
  retention_in_days = var.log_days
  kms_key_id        = var.kms_key_arn
  tags              = var.tags
}

data "aws_iam_policy_document" "assume_task" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ecs-tasks.amazonaws.com"]
    }
  }
}

# It reads and writes as query and ingest do together, which is what ingest may.
resource "aws_iam_role" "service" {
  count              = length(local.service)
  name               = "${var.name}-service"
  assume_role_policy = data.aws_iam_policy_document.assume_task.json
  tags               = var.tags
}

resource "aws_iam_role_policy" "service" {
  count  = length(local.service)
  name   = "store"
  role   = aws_iam_role.service[0].id
  policy = data.aws_iam_policy_document.store["ingest"].json
}

# What starts the container: its log and the secret. The image is public, or its registry's policy lets this role in.
resource "aws_iam_role" "start" {
  count              = length(local.service)
  name               = "${var.name}-start"
  assume_role_policy = data.aws_iam_policy_document.assume_task.json
  tags               = var.tags
}

data "aws_iam_policy_document" "start" {
  count = length(local.service)

  statement {
    sid       = "Log"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.service[0].arn}:*"]
  }

  statement {
    sid       = "Keys"
    actions   = ["secretsmanager:GetSecretValue"]
    resources = [var.service.keys_secret_arn]
  }
}

resource "aws_iam_role_policy" "start" {
  count  = length(local.service)
  name   = "start"
  role   = aws_iam_role.start[0].id
  policy = data.aws_iam_policy_document.start[0].json
}

resource "aws_ecs_task_definition" "service" {
  count                    = length(local.service)
  family                   = var.name
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.service.cpu
  memory                   = var.service.memory
  task_role_arn            = aws_iam_role.service[0].arn
  execution_role_arn       = aws_iam_role.start[0].arn
  tags                     = var.tags

  runtime_platform {
    cpu_architecture        = var.architecture == "arm64" ? "ARM64" : "X86_64"
    operating_system_family = "LINUX"
  }

  volume {
    name = "scratch"
  }

  container_definitions = jsonencode([{
    name                   = "esker"
    image                  = var.service.image
    essential              = true
    readonlyRootFilesystem = true
    # The server reads keys from a file, and a container gets a secret as a variable.
    entryPoint = ["sh", "-c"]
    command = [join(" ", [
      "umask 077 && printenv KEYS > /scratch/keys && unset KEYS &&",
      "exec esker serve --http 0.0.0.0:5678 --grpc 0.0.0.0:5679 --keys /scratch/keys --scratch /scratch",
      "--no-compaction --log-format json --memory ${floor(var.service.memory * 3 / 4)}MiB",
    ])]
    portMappings = [{ containerPort = 5678 }, { containerPort = 5679 }]
    mountPoints  = [{ sourceVolume = "scratch", containerPath = "/scratch" }]
    stopTimeout  = 120
    environment = [
      for key, value in merge(var.environment, { ESKER_STORE = local.store, AWS_REGION = local.region }) :
      { name = key, value = value }
    ]
    secrets = [{ name = "KEYS", valueFrom = var.service.keys_secret_arn }]
    logConfiguration = {
      logDriver = "awslogs"
      options = {
        awslogs-group         = aws_cloudwatch_log_group.service[0].name
        awslogs-region        = local.region
        awslogs-stream-prefix = "esker"
      }
    }
  }])
}

resource "aws_security_group" "balancer" {
  count       = length(local.service)
  name        = "${var.name}-balancer"
  description = "Clients to the load balancer"
  vpc_id      = var.service.vpc_id
  tags        = var.tags
}

resource "aws_vpc_security_group_ingress_rule" "clients" {
  for_each          = toset(flatten(local.service[*].clients))
  security_group_id = aws_security_group.balancer[0].id
  description       = "gRPC over TLS"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_egress_rule" "to_service" {
  count                        = length(local.service)
  security_group_id            = aws_security_group.balancer[0].id
  description                  = "gRPC to the containers"
  referenced_security_group_id = aws_security_group.service[0].id
  ip_protocol                  = "tcp"
  from_port                    = 5679
  to_port                      = 5679
}

resource "aws_security_group" "service" {
  count       = length(local.service)
  name        = "${var.name}-service"
  description = "The containers"
  vpc_id      = var.service.vpc_id
  tags        = var.tags
}

resource "aws_vpc_security_group_ingress_rule" "from_balancer" {
  count                        = length(local.service)
  security_group_id            = aws_security_group.service[0].id
  description                  = "gRPC from the load balancer"
  referenced_security_group_id = aws_security_group.balancer[0].id
  ip_protocol                  = "tcp"
  from_port                    = 5679
  to_port                      = 5679
}

resource "aws_vpc_security_group_egress_rule" "to_aws" {
  count             = length(local.service)
  security_group_id = aws_security_group.service[0].id
  description       = "S3, logs, secrets and the registry, by TLS"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_lb" "service" {
  #checkov:skip=CKV_AWS_91:The server logs each request itself
  #checkov:skip=CKV_AWS_150:terraform destroy is to leave nothing behind
  #checkov:skip=CKV2_AWS_28:Keys and the list of clients guard it; a firewall is the account's to add
  count                      = length(local.service)
  name                       = var.name
  load_balancer_type         = "application"
  subnets                    = var.service.public_subnets
  security_groups            = [aws_security_group.balancer[0].id]
  drop_invalid_header_fields = true
  idle_timeout               = 120
  tags                       = var.tags
}

resource "aws_lb_target_group" "service" {
  count            = length(local.service)
  name             = var.name
  vpc_id           = var.service.vpc_id
  target_type      = "ip"
  port             = 5679
  protocol         = "HTTP"
  protocol_version = "GRPC"
  tags             = var.tags

  health_check {
    path    = "/grpc.health.v1.Health/Check"
    matcher = "0"
  }
}

resource "aws_lb_listener" "service" {
  count             = length(local.service)
  load_balancer_arn = aws_lb.service[0].arn
  port              = 443
  protocol          = "HTTPS"
  ssl_policy        = "ELBSecurityPolicy-TLS13-1-2-2021-06"
  certificate_arn   = var.service.certificate_arn
  tags              = var.tags

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.service[0].arn
  }
}

resource "aws_ecs_service" "service" {
  count            = length(local.service)
  name             = var.name
  cluster          = aws_ecs_cluster.service[0].id
  task_definition  = aws_ecs_task_definition.service[0].arn
  desired_count    = var.service.count
  launch_type      = "FARGATE"
  platform_version = "LATEST"
  tags             = var.tags

  network_configuration {
    subnets         = var.service.subnets
    security_groups = [aws_security_group.service[0].id]
  }

  load_balancer {
    target_group_arn = aws_lb_target_group.service[0].arn
    container_name   = "esker"
    container_port   = 5679
  }

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  depends_on = [aws_lb_listener.service, aws_iam_role_policy.service, aws_iam_role_policy.start]
}
