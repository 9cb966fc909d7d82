# shellcheck shell=bash
# Kafka, one node that is broker and controller (KRaft), from its jars: Maven brings them as kafka-pom.xml lists them.

KAFKA_POM=${BASH_SOURCE[0]%/*}/kafka-pom.xml

fill_kafka() { # FOLDER
  mvn -q -B -f "$KAFKA_POM" dependency:copy-dependencies -DoutputDirectory="$1"
}

kafka_config() { # FOLDER PORT CONTROLLER_PORT
  cat <<EOC
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$3
listeners=PLAINTEXT://127.0.0.1:$2,CONTROLLER://127.0.0.1:$3
advertised.listeners=PLAINTEXT://127.0.0.1:$2
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$1/data
num.partitions=4
auto.create.topics.enable=false
log.retention.hours=-1
group.initial.rebalance.delay.ms=0
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
transaction.max.timeout.ms=3600000
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
EOC
}

kafka_serve() { # FOLDER PORT
  local jars=$SCRATCH/kafka-jars java cluster
  cached kafka-4.4.0 fill_kafka
  borrow kafka-4.4.0 "$jars"
  pick_port controller
  kafka_config "$1" "$2" "${PORTS[controller]}" >"$1/server.properties"
  cluster=$(head -c 16 /dev/urandom | base64 | tr '+/' 'AB' | tr -d =)
  # Native libraries are unpacked into java.io.tmpdir: with the rest, they go away with the scratch folder.
  java=(java -XX:+UseG1GC -XX:-UsePerfData -Djava.io.tmpdir="$1" -cp "$jars/*")
  "${RUN_AS[@]}" "${java[@]}" -XX:TieredStopAtLevel=1 kafka.tools.StorageTool format -t "$cluster" -c "$1/server.properties"
  exec "${RUN_AS[@]}" "${java[@]}" -Xmx1g kafka.Kafka "$1/server.properties"
}

# The port opens before requests are answered: the broker says in its log when they are.
kafka_ready() { grep -q 'Kafka Server started' "$(server_log kafka)"; }

kafka_url() { printf 'KAFKA_ADDR=127.0.0.1:%s\n' "$1"; }
