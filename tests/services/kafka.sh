# shellcheck shell=bash
# Kafka, one node that is broker and controller (KRaft), from its jars: Maven brings them as kafka-pom.xml lists them.

KAFKA_POM=${BASH_SOURCE[0]%/*}/kafka-pom.xml

# So long the broker may be silent before its controller fences it: it is all that there is, and where a busy machine's disk stands
# still for half a minute, the tests are to wait. But so long a broker that was killed has to wait too until it may come back.
KAFKA_SESSION_MS=60000

fill_kafka() { # FOLDER
  mvn -q -B -f "$KAFKA_POM" dependency:copy-dependencies -DoutputDirectory="$1"
}

kafka_config() { # FOLDER PORT CONTROLLER_PORT
  cat <<EOC
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$3
listeners=PLAINTEXT://${ADDRESSES[kafka]}:$2,CONTROLLER://127.0.0.1:$3
advertised.listeners=PLAINTEXT://${ADDRESSES[kafka]}:$2
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
broker.session.timeout.ms=$KAFKA_SESSION_MS
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

# kafka_program FOLDER: sets KAFKA_RUN to the words that run a class of Kafka's. Native libraries are unpacked into
# java.io.tmpdir: with the rest, they go away with the scratch folder. KAFKA_JIT is one option of Java's or none.
kafka_program() {
  KAFKA_RUN=("${RUN_AS[@]}" java -XX:+UseG1GC -XX:-UsePerfData ${KAFKA_JIT:+"$KAFKA_JIT"} -Dorg.slf4j.simpleLogger.showDateTime=true
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS" "-Djava.io.tmpdir=$1" -cp "$SCRATCH/kafka-jars/*")
}

kafka_create() { # FOLDER PORT
  local cluster
  cached kafka-4.4.0 fill_kafka
  borrow kafka-4.4.0 "$SCRATCH/kafka-jars"
  pick_port controller
  kafka_config "$1" "$2" "${PORTS[controller]}" >"$1/server.properties"
  cluster=$(head -c 16 /dev/urandom | base64 | tr '+/' 'AB' | tr -d =)
  kafka_program "$1"
  "${KAFKA_RUN[@]}" -XX:TieredStopAtLevel=1 kafka.tools.StorageTool format -t "$cluster" -c "$1/server.properties"
}

kafka_run() { # FOLDER PORT
  kafka_program "$1"
  exec "${KAFKA_RUN[@]}" -Xmx1g kafka.Kafka "$1/server.properties"
}

# The port opens before requests are answered: the broker says in its log when they are.
kafka_ready() { grep -q 'Kafka Server started' "$(server_log kafka)"; }

kafka_url() { printf 'KAFKA_ADDR=%s:%s\n' "${ADDRESSES[kafka]}" "$1"; }
